from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from zoo import registry
from zoo.errors import UnknownNameError, ZooError
from zoo.registry import Registry, load_object, read_yaml
from zoo.specs import ModelCard

CARD = "{{id: {id}, family: f, title: t, task: reconstruction, builder: null, paper: p, licence: l{more}}}"
Models = Registry[ModelCard]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Models]:
    """A registry of the YAML files given as ``name=text``, and of the plugins given as entry-point objects."""
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)

    def of(plugins: dict[str, Any] | None = None, **files: str) -> Models:
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        points = tuple(Point(name, found) for name, found in (plugins or {}).items())
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: points if group == "zoo.models" else ())
        return Registry("model", ModelCard, "*.yaml")

    return of


class Point:
    """An installed plugin's entry point."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.value, self._found = name, f"{name}.cards:CARD", found

    def load(self) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def entry(name: str, more: str = "") -> str:
    return CARD.format(id=name, more=more)


def card(name: str, **more: Any) -> ModelCard:
    fields = {"family": "f", "title": "t", "task": "reconstruction", "builder": None, "paper": "p", "licence": "l"}
    return ModelCard.model_validate({"id": name, **fields, **more})


def test_cards_are_found_by_name_and_by_alias_and_listed_in_order(make: Callable[..., Models]) -> None:
    models = make(a=entry("zeta", ", aliases: [zed]"), b=f"- {entry('beta')}\n- {entry('alpha')}")
    assert models.names() == ["alpha", "beta", "zeta"]
    assert [found.id for found in models.cards()] == models.names()
    assert models.get("zeta") is models.get("zed")


def test_an_id_goes_before_an_alias(make: Callable[..., Models]) -> None:
    assert make(a=entry("first", ", aliases: [second]"), b=entry("second")).get("second").id == "second"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("thoughtvis", "; did you mean 'thoughtviz'?"),
        ("eeg2imag", "; did you mean 'eeg2image' or 'eeg2image-b'?"),
        ("qqqq", "."),
    ],
)
def test_an_unknown_name_suggests_close_ones(make: Callable[..., Models], name: str, hint: str) -> None:
    models = make(a="\n".join(f"- {entry(known)}" for known in ("thoughtviz", "eeg2image", "eeg2image-b")))
    with pytest.raises(UnknownNameError) as error:
        models.get(name)
    assert str(error.value) == f"unknown model {name!r}{hint} See 'zoo list models'."
    assert error.value.exit_code == 2
    assert isinstance(error.value, KeyError)


def test_an_id_stands_once(make: Callable[..., Models]) -> None:
    with pytest.raises(ZooError) as error:
        make(a=entry("same"), b=entry("same")).names()
    assert str(error.value) == "model 'same' stands twice, the second time in b.yaml."


def test_an_invalid_card_names_its_file_and_field(make: Callable[..., Models]) -> None:
    with pytest.raises(ZooError, match=r"^a\.yaml holds an invalid model card: 1 validation error .*\ncolour\n"):
        make(a=entry("x", ", colour: red")).names()


def test_yaml_builds_plain_data_only(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("!!python/object/apply:os.system [exit 1]")
    with pytest.raises(Exception, match="could not determine a constructor for the tag"):
        read_yaml(tmp_path / "x.yaml")


def test_added_cards_live_in_this_process_under_a_name_of_their_own(make: Callable[..., Models]) -> None:
    models = make(a=entry("old"))
    mine = models.add(card("mine"))
    assert models.get("mine") is mine
    assert models.names() == ["mine", "old"]
    for name in ("old", "mine"):
        with pytest.raises(ZooError) as error:
            models.add(card(name))
        assert str(error.value) == f"model {name!r} is registered already; give this one another id."


def test_plugins_bring_one_card_or_several(make: Callable[..., Models]) -> None:
    models = make({"one": card("p1"), "two": [card("p2"), card("p3", aliases=("third",))]}, a=entry("old"))
    assert models.names() == ["old", "p1", "p2", "p3"]
    assert models.get("third").id == "p3"
    assert models.broken == {}


def test_a_broken_plugin_is_set_aside_and_never_stops_the_rest(make: Callable[..., Models]) -> None:
    models = make(
        {
            "fails": ImportError("No module named 'gone'"),
            "text": "not a card",
            "taken": card("old", title="an impostor"),
            "good": card("good"),
            "twice": card("good", title="another"),
        },
        a=entry("old"),
    )
    assert models.names() == ["good", "old"]
    assert models.get("old").title == models.get("good").title == "t"
    assert models.broken == {
        "fails (fails.cards:CARD)": "ImportError: No module named 'gone'",
        "text (text.cards:CARD)": "AttributeError: 'str' object has no attribute 'id'",
        "taken (taken.cards:CARD)": "ZooError: model 'old' is registered already; give this one another id.",
        "twice (twice.cards:CARD)": "ZooError: model 'good' is registered already; give this one another id.",
    }


def test_an_object_is_loaded_by_where_it_is() -> None:
    assert load_object("zoo.registry:Registry") is Registry
    with pytest.raises(ModuleNotFoundError):
        load_object("zoo.nowhere:x")


def test_listing_imports_no_heavy_library() -> None:
    code = (
        "import sys; from zoo import registry as r;"
        "[kind.names() for kind in (r.models, r.datasets, r.metrics, r.tracks)];"
        "print(sorted({'torch', 'numpy', 'datasets', 'scipy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
