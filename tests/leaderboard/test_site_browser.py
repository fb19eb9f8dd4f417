"""The static site in a browser: headless Chromium, from disk, without a network.

Needs Debian's ``chromium`` and ``pip install playwright``; elsewhere these tests skip.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from leaderboard.board import FsBoard
from leaderboard.site import Cards, build_site, file_name, stem
from leaderboard.standing import Evidence, note_of, parts
from tests.conftest import build_record
from tests.leaderboard.test_site import BOARD, CARD, EVIL, OBJECTS, lay_samples
from zoo.cli import app
from zoo.record import Value

playwright = pytest.importorskip("playwright.sync_api", reason="needs 'pip install playwright', too large for an extra")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt install chromium)")
AXE = Path(__file__).parent / "axe" / "axe.min.js.gz"
TRACK = "reconstruction/phantom.subject-out@1"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small records, some with samples, some of strangers, and three published ones; one model is registered."""
    folder = tmp_path_factory.mktemp("browser")
    board = FsBoard(folder / "board")
    shutil.copytree(BOARD / "records" / OBJECTS, folder / "board" / "records" / OBJECTS)
    for i in range(7):
        fid = Value(value=100.0 - 10 * i, higher_is_better=False, signature="fid|v1", interval=(90.0 - 10 * i, 130.0))
        record = build_record(
            f"model-{i}", 0.3 + 0.1 * i, interval=(0.25 + 0.1 * i, 0.35 + 0.1 * i), values={"fid": fid}
        )
        board.push(record)
        lay_samples(folder / "board", record)
    hostile = build_record("stranger", 0.2, values={EVIL: Value(value=0.5, signature=EVIL, higher_is_better=True)})
    made = hostile.provenance.model_copy(update={"command": EVIL, "hardware": EVIL, "weights_source": EVIL})
    board.push(hostile.model_copy(update={"provenance": made}))
    gone = build_record("taken-back", 0.5)
    made = gone.provenance.model_copy(update={"command": f"zoo sweep cell '{'x' * 300}'"})
    gone = gone.model_copy(update={"provenance": made})
    board.push(gone)
    board.note(note_of(gone, "retracted", by="somebody", reason="trained on the test role"))
    given = build_record("local-mine", 0.1)
    made = given.provenance.model_copy(update={"command": "mine.py", "weights_source": "trained: in memory"})
    board.push(given.model_copy(update={"provenance": made.model_copy(update={"trained_on": ()})}))
    cards = Cards(
        models=[CARD],
        datasets=[
            {
                "id": "phantom",
                "title": "Generated EEG",
                "hosts": "everything",
                "citation": "C & D (2020)",
                "loader": "zoo.datasets.phantom:load",
            }
        ],
    )
    checked = next(r for r in board.records() if r.identity.model == "model-6")
    left = {("shuffled-eeg", "accuracy"): "samples/shuffled-eeg.r0 was not uploaded"}
    evidence = Evidence(
        upload_sha256="a" * 64,
        zoo="0.3.0",
        device="cpu",
        tolerance=1e-4,
        largest=3e-7,
        began=("samples/model.r0", "eeg-features/train"),
        same=parts({("model", "accuracy"): "", ("model", "fid"): ""}),
        left=parts(left),
    )
    board.note(note_of(checked, "validated", by=f"a keeper {EVIL[:40]}", reason="2 of 3 agree.", evidence=evidence))
    build_site(board, folder / "site", cards)
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, site: Path) -> Open:
    """Open an address of the site; an error, a warning or a request that leaves the folder fails the test."""

    @contextmanager
    def visited(address: str, *, width: int = 1280, scheme: str = "light", first: str = "") -> Iterator[Any]:
        wrong: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.add_init_script(first)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        here = (site.as_uri(), "blob:", "data:")
        page.on("request", lambda asked: None if asked.url.startswith(here) else wrong.append(asked.url))
        page.set_default_timeout(10_000)
        page.goto(f"{site.as_uri()}/index.html{address}")
        page.wait_for_selector("main[data-ready]")
        yield page
        assert wrong == []
        context.close()

    return visited


def names(page: Any) -> list[str]:
    """Models of the ranked table, from top to bottom."""
    return page.locator(".ranked .tabulator-row.is-entry .who a").all_text_contents()  # type: ignore[no-any-return]


def test_the_start_page_leads_to_a_track(visit: Open) -> None:
    with visit("") as page:
        assert page.locator("h1").text_content() == "Can a picture be read out of EEG?"
        assert page.locator(".show .cell").count() == 6  # shown, made, made of shuffled EEG; two trials
        page.locator(".card", has_text="phantom").first.click()
        page.wait_for_selector(".ranked .tabulator-row")
        assert page.evaluate("location.hash") == f"#/track/{TRACK}"
        assert names(page)[:2] == ["model-6", "model-5"]


def test_a_column_sorts_by_mouse_and_by_key(visit: Open) -> None:
    with visit(f"#/track/{TRACK}") as page:
        header = page.locator(".ranked .tabulator-col", has_text="fid ↓")
        header.click()
        assert names(page)[0] == "model-6"  # the smallest distance first
        header.focus()
        page.keyboard.press("Enter")
        assert names(page)[0] == "model-0"
        assert header.get_attribute("aria-sort") == "descending"
        assert page.evaluate("location.hash").endswith("?sort=m.fid&dir=desc")


def test_a_filter_shows_what_fits_in_table_and_plot(visit: Open) -> None:
    with visit(f"#/track/{TRACK}") as page:
        page.wait_for_selector("#intervals svg")
        page.get_by_label("filter").fill("model-3")
        page.get_by_label("controls", exact=True).uncheck()
        page.wait_for_function("document.querySelectorAll('.ranked .tabulator-row').length === 1")
        assert names(page) == ["model-3"]
        assert page.locator("#intervals .plot").get_attribute("aria-label") == "accuracy: model-3 0.600 [0.550, 0.650]"
        assert page.get_by_text("1 result, 0 controls").count() == 1


def test_an_address_holds_sort_filter_and_columns(visit: Open) -> None:
    with visit(f"#/track/{TRACK}?q=model&sort=m.fid&dir=asc&controls=0&show=fid&metric=fid") as page:
        page.wait_for_selector("#intervals svg")
        assert names(page)[0] == "model-6"
        assert len(names(page)) == 7
        assert page.locator(".ranked .is-control").count() == 0
        assert "fid ↓" in page.locator(".ranked .tabulator-header").text_content()
        assert "accuracy ↑" not in page.locator(".ranked .tabulator-header").text_content()
        assert page.locator("#intervals .plot").get_attribute("aria-label").startswith("fid: model-6 40.000")


def test_plots_wait_for_no_idle_moment(visit: Open) -> None:
    with visit(f"#/track/{TRACK}", first="window.requestIdleCallback = () => 0;") as page:
        page.wait_for_selector("#intervals svg")
        page.wait_for_selector("#cost svg")


def test_no_name_in_the_plot_of_costs_lies_on_another(browser: Any, tmp_path: Path) -> None:
    board = FsBoard(tmp_path / "board")
    for name in ("alike-one", "alike-two", "alike-three", "nearly-alike"):
        board.push(build_record(name, 0.51 if "nearly" in name else 0.5, interval=(0.3, 0.7)))
    built = build_site(board, tmp_path / "site")
    page = browser.new_page()
    page.goto(f"{built.folder.as_uri()}/index.html#/track/{TRACK}")
    page.wait_for_selector("#cost svg")
    boxes = page.evaluate(
        """[...document.querySelectorAll('#cost svg text')].filter(text => text.textContent.includes('alike'))
        .map(text => [text.textContent, text.getBoundingClientRect()])
        .map(([name, box]) => [name, box.left, box.top, box.right, box.bottom])"""
    )
    page.close()
    assert sorted(box[0] for box in boxes) == ["alike-one", "alike-three", "alike-two", "nearly-alike"]
    for i, (one, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[:i]:
            apart = left >= right2 or left2 >= right or top >= bottom2 - 3 or top2 >= bottom - 3
            assert apart, (one, other)


def test_confusions_are_on_the_page_of_a_classifier(browser: Any, tmp_path: Path) -> None:
    record = build_record("mine", 0.5, track="recognition/mine.run-out@1")
    FsBoard(tmp_path / "board").push(record)
    Image.new("RGB", (800, 600), "white").save((tmp_path / "board" / "records" / record.name).with_suffix(".png"))
    built = build_site(FsBoard(tmp_path / "board"), tmp_path / "site")
    page = browser.new_page(viewport={"width": 400, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text))
    page.goto(f"{built.folder.as_uri()}/index.html#/record/{stem(record)}")
    picture = page.get_by_role("img", name="Confusion matrix of mine: classes shown in rows")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#confusion img').naturalWidth === 800")
    assert picture.bounding_box()["width"] <= 372
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert wrong == []
    page.close()


def test_a_model_of_no_registry_gets_no_command(visit: Open, site: Path) -> None:
    (record,) = (r for r in FsBoard(site.parent / "board").records() if r.identity.model == "local-mine")
    sentence = "This model is in no registry: whoever pushed it has the code."
    with visit("#/model/local-mine") as page:
        assert page.locator("#use p").all_text_contents() == [sentence]
        assert page.locator(".code").count() == 0
        assert page.get_by_text("whatever the dataset offers").count() == 0
    with visit(f"#/record/{stem(record)}") as page:
        assert page.locator("#again p").all_text_contents() == [sentence, "What was run: mine.py"]
        assert page.locator("#again .code").count() == 0
        assert "trained onunknown" in page.locator("#provenance dl").first.text_content()
    with visit(f"#/model/{CARD['id']}") as page:
        assert f"zoo train {CARD['id']} --dataset DATASET" in page.locator("#use").text_content()
        assert page.get_by_text("whatever the dataset offers").count() == 1


def test_a_record_says_what_was_computed_again_and_what_was_not(visit: Open, site: Path) -> None:
    records = {r.identity.model: r for r in FsBoard(site.parent / "board").records()}
    with visit(f"#/record/{stem(records['model-6'])}") as page:
        shown = page.locator("#checked")
        facts = {
            row.locator("dt").text_content(): row.locator("dd").text_content()
            for row in shown.locator("dl > div").all()
        }
        assert facts == {
            "values that agree": "2",
            "not computed again": "1",
            "largest difference": "3e-07",
            "tolerance": "0.0001",
            "decided by rounding": "none",
            "from": "1 set of images, 1 array of features",
            "with": "zoo 0.3.0 on cpu",
            "upload": "a" * 64,
        }
        assert shown.get_by_text("That the model made it, nothing here shows.").count() == 1
        shown.get_by_text("Which values").click()
        assert shown.locator("details li").all_text_contents() == [
            "model: accuracy, fid",
            "shuffled-eeg: accuracy (samples/shuffled-eeg.r0 was not uploaded)",
        ]
    with visit(f"#/record/{stem(records['model-1'])}") as page:
        assert "Nobody but its maker has said anything of it" in page.locator("#checked").text_content()


def test_a_record_opens_by_the_start_of_its_name(visit: Open, site: Path) -> None:
    first, *others = sorted(stem(r) for r in FsBoard(site.parent / "board").records())
    with visit(f"#/record/{first[:12]}") as page:
        assert page.evaluate("location.hash") == f"#/record/{first}"
        assert page.locator(".crumbs").text_content().endswith(f" / {first[:12]}")
    letter = next(a for a in "0123456789abcdef" if sum(name.startswith(a) for name in (first, *others)) > 1)
    several = [name for name in (first, *others) if name.startswith(letter)]
    with visit(f"#/record/{letter}") as page:
        assert page.get_by_text(f"{len(several)} records begin with {letter}.").count() == 1
        assert page.locator("main li a").all_text_contents() == several


def test_samples_are_the_same_trials_for_every_model(visit: Open, site: Path) -> None:
    records = [r for r in FsBoard(site.parent / "board").records() if r.identity.model in ("model-1", "model-2")]
    seen = []
    for record in records:
        with visit(f"#/record/{stem(record)}") as page:
            rows = page.locator("#samples tbody th").all_text_contents()
            assert rows == ["shown", "made from EEG", "from shuffled EEG"]
            cells = page.locator("#samples .cell")
            seen.append([cells.nth(i).get_attribute("aria-label") for i in range(cells.count())])
            assert (
                cells.nth(2).evaluate("cell => getComputedStyle(cell).backgroundImage").endswith('picked-made.webp")')
            )
            loaded = "() => new Promise(done => { const i = new Image(); i.onload = () => done(i.width); i.src = %r; })"
            assert page.evaluate(loaded % f"samples/{stem(record)}/picked-made.webp") == 16
    assert seen[0] == seen[1]
    assert seen[0][0] == "shown: circle, trial t1"


def test_tables_can_be_taken_away(visit: Open) -> None:
    with visit(f"#/track/{TRACK}") as page:
        page.wait_for_selector(".ranked .tabulator-row")
        taken = {}
        for button in ("CSV", "LaTeX", "BibTeX"):
            with page.expect_download() as found:
                page.get_by_role("button", name=button, exact=True).click()
            taken[button] = (found.value.suggested_filename, Path(found.value.path()).read_text("utf-8"))
        name, text = taken["CSV"]
        assert name == "phantom.subject-out@1.csv"
        first = next(csv.DictReader(io.StringIO(text, newline="")))
        assert (first["model"], float(first["accuracy"]), float(first["fid"])) == ("model-6", 0.9, 40.0)
        assert "model-6 & \\textbf{0.900} {\\scriptsize [0.850, 0.950]}" in taken["LaTeX"][1]
        assert taken["LaTeX"][1].count("\n\\") >= 5
        assert "@misc{phantom," in taken["BibTeX"][1]
        assert "note = {C \\& D (2020)}" in taken["BibTeX"][1]


def test_the_page_prints_the_numbers_of_zoo_compare(visit: Open, site: Path) -> None:
    with visit(f"#/track/{OBJECTS}") as page:
        page.get_by_label("pair").select_option(index=2)
        a = page.locator(".comparison").get_attribute("data-a")
        b = page.locator(".comparison").get_attribute("data-b")
        named = [a[:12]] if b == "shuffled-eeg" else [a[:12], b[:12]]
        called = CliRunner().invoke(app, ["compare", *named, "--board", str(site.parent / "board")])
        assert called.exit_code == 0
        rows = page.locator(".comparison tbody tr")
        assert rows.count() == 8
        for i in range(rows.count()):
            metric, *cells = (text.strip() for text in rows.nth(i).locator("th, td").all_text_contents())
            line = next(line for line in called.stdout.splitlines() if line.startswith(metric))
            for number in (*cells[:3], cells[3].strip("[]").split(",")[0]):  # A, B, A - B, from
                assert number in line, (metric, number, line)
            if cells[4]:  # p, where half of the last digit is rounded up on the page and to even in the terminal
                printed = [float(token) for token in re.findall(r"\d\.\d+", line)]
                assert min(abs(p - float(cells[4])) for p in printed) < 2e-3, (metric, cells[4], line)


def test_strangers_stay_text(visit: Open, site: Path) -> None:
    (record,) = (r for r in FsBoard(site.parent / "board").records() if r.identity.model == "stranger")
    with visit(f"#/record/{stem(record)}") as page:
        page.wait_for_selector("#values .tabulator-row")
        assert page.locator("main img, main script").count() == 0
        assert EVIL in page.locator("#provenance").text_content()
        assert page.get_by_text("onerror=alert(1)").count() >= 3


def test_a_record_that_was_taken_back_says_why(visit: Open) -> None:
    with visit(f"#/track/{TRACK}?q=taken") as page:
        row = page.locator(".ranked .tabulator-row")
        assert "taken-back" not in names(page)
        assert "retracted: trained on the test role (somebody)" in row.text_content()


def test_the_pages_of_what_was_taken_back_say_so_at_once(visit: Open, site: Path) -> None:
    (record,) = (r for r in FsBoard(site.parent / "board").records() if r.identity.model == "taken-back")
    with visit(f"#/record/{stem(record)}", width=400) as page:
        assert page.locator("p.badges .confounded").text_content() == "retracted"
        assert page.locator("main p.note").first.text_content() == "retracted: trained on the test role (somebody)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, "a long command breaks"
    with visit("#/model/taken-back") as page:
        assert page.locator("#results .tabulator-row .badge.confounded").text_content() == "retracted"


@pytest.mark.parametrize("kind", ["start", "track", "record", "model", "dataset", "claims"])
def test_a_damaged_file_is_named_and_not_waited_for(browser: Any, site: Path, tmp_path: Path, kind: str) -> None:
    record = next(r for r in FsBoard(site.parent / "board").records() if r.identity.model == "model-1")
    address, where = {
        "start": ("", "data.js"),
        "track": (f"track/{TRACK}", f"tracks/{file_name(TRACK)}.js"),
        "record": (f"record/{stem(record)}", f"records/{stem(record)}.js"),
        "model": ("model/model-1", f"models/{file_name('model-1')}.js"),
        "dataset": ("dataset/phantom", f"datasets/{file_name('phantom')}.js"),
        "claims": ("claims", "claims.js"),
    }[kind]
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    path = folder / where
    data = path.read_bytes()
    changed = data[:99] + bytes([data[99] ^ 1]) + data[100:]
    page = browser.new_page()
    page.set_default_timeout(5_000)
    for damage in (data[: len(data) // 2], changed, b"", b"<html>"):
        path.write_bytes(damage)
        page.goto("about:blank")
        page.goto(f"{folder.as_uri()}/index.html#/{address}")
        page.wait_for_selector("main[data-ready]")
        shown = page.locator("main").inner_text().splitlines()
        assert shown[0] == "This page is not complete"
        assert f"{where} is damaged. The folder of this site must be whole: build it again." in shown
    path.unlink()
    page.reload()
    page.wait_for_selector("main[data-ready]")
    assert f"{where} is not here. The folder of this site must be whole: build it again." in page.inner_text("main")
    page.close()


def test_an_address_that_leads_nowhere_says_so(visit: Open) -> None:
    with visit("#/track/none") as page:
        for address in ("#/record/..%2f..%2fdata", "#/nothing", "#/model/__proto__"):
            assert page.locator("h1").text_content() == "Not here"
            page.evaluate("to => { location.hash = to; }", address)
            page.wait_for_function("to => document.querySelector('main').dataset.ready === to", arg=address)


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_every_page_fits_and_is_accessible(visit: Open, site: Path, width: int, scheme: str) -> None:
    record = next(r for r in FsBoard(site.parent / "board").records() if r.identity.model == "model-5")
    axe = gzip.decompress(AXE.read_bytes()).decode()
    pages = ["", "#/tracks", "#/models", "#/datasets", "#/metrics", "#/claims", "#/about", f"#/track/{TRACK}",
             "#/model/model-1", "#/dataset/phantom", f"#/record/{stem(record)}"]  # fmt: skip
    with visit(pages[0], width=width, scheme=scheme) as page:
        page.evaluate(axe)
        for address in pages:
            page.evaluate("to => { location.hash = to || '#/'; }", address)
            page.wait_for_function("to => document.querySelector('main').dataset.ready === (to || '#/')", arg=address)
            page.wait_for_timeout(120)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
            found = page.evaluate(
                "axe.run(document, {resultTypes: ['violations'], preload: false}).then(found => found.violations)"
            )
            serious = [
                (rule["id"], rule["nodes"][0]["html"][:160])
                for rule in found
                if rule["impact"] in ("serious", "critical")
            ]
            assert serious == [], address
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme
        page.get_by_role("button", name="Switch between light and dark").click()
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") != scheme
