"""The nouns of the zoo as frozen, validated data: no torch, no numpy, nothing that runs.

Cards are YAML files beside the code they describe, so that listing them imports none of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from zoo.errors import UsageError

Pairing = Literal["instance", "class", "none"]
"""How trials and images belong together: each trial has its own image, only the class is shared, or not at all."""
Verdict = Literal["clean", "suspect", "confounded", "unknown"]
Task = Literal["reconstruction", "recognition", "encoding", "retrieval", "editing"]
Condition = Literal["eeg", "label"]
"""What a model makes its images from: recordings, or the true class, which makes it a control."""
Array = Literal[
    "generated",
    "replicates",
    "pairs",
    "labels",
    "own",
    "reference",
    "reference_labels",
    "known",
    "known_labels",
    "test_features",
    "test_labels",
    "test_logits",
    "test_units",
    "train_features",
    "train_labels",
    "n_classes",
    "encoder",
    "predicted",
    "observed",
    "gallery",
    "mean_queries",
    "mean_own",
    "trial_queries",
    "trial_own",
]
"""What a metric may be given; docs/adding.md says what each is."""
Protocol = Literal[
    "random-window",
    "legacy-block",
    "within-recording",
    "cross-run",
    "cross-session",
    "cross-subject",
    "unseen-stimulus",
    "unseen-concept",
]
SHA256 = r"^[0-9a-f]{64}$"


class Spec(BaseModel):
    """Frozen and closed: an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EEGSpec(Spec):
    """What a dataset offers and what a model needs: trials are (n_channels, n_times) at ``sfreq`` from ``tmin``."""

    ch_names: tuple[str, ...]
    sfreq: float = Field(gt=0)
    """Sampling rate in Hz."""
    tmin: float
    """Time of the first sample in seconds from stimulus onset."""
    n_times: int = Field(gt=0)
    unit: Literal["V", "a.u."] = "V"

    @property
    def n_channels(self) -> int:
        return len(self.ch_names)

    def __str__(self) -> str:
        return f"{self.n_channels} channels × {self.n_times} times at {self.sfreq:g} Hz"

    def require(self, need: EEGSpec, *, offers: str, needs: str) -> None:
        """Raise unless these recordings fit ``need``.

        Raises:
            UsageError: Channel count, channel names, rate or length differ; the sentence names both sides.
        """
        differ = []
        if self.n_channels != need.n_channels:
            differ.append(f"{self.n_channels} channels against {need.n_channels}")
        elif self.ch_names != need.ch_names:
            odd = next((a, b) for a, b in zip(self.ch_names, need.ch_names, strict=True) if a != b)
            differ.append(f"channel {odd[0]} where {odd[1]} is needed")
        if self.sfreq != need.sfreq:
            differ.append(f"{self.sfreq:g} Hz against {need.sfreq:g} Hz")
        if self.n_times != need.n_times:
            differ.append(f"{self.n_times} times against {need.n_times}")
        if differ:
            raise UsageError(
                f"{needs} needs {need}, but {offers} offers {self} ({'; '.join(differ)}); "
                f"choose a dataset that fits or train the model on {offers}."
            )


class File(Spec):
    """One pinned file: on the Hub (``repo``, 40-hex ``revision``) or at a ``url``; never trusted before its sha256."""

    path: str
    sha256: str = Field(pattern=SHA256)
    size: int | None = None
    repo: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    url: str | None = None
    licence: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> File:
        if (self.repo is None) == (self.url is None) or (self.repo is not None and self.revision is None):
            raise ValueError(f"{self.path} needs either a repo with its 40-hex revision or a url")
        return self


class HubRepo(Spec):
    """One pinned state of a repo on the Hub."""

    repo: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision[:8]}"


class Claim(Spec):
    """A number as published, with its source; ours stand in records, never here."""

    metric: str
    value: float
    spread: float | None = None
    dataset: str
    source: str
    status: Literal["seen", "third-party"]
    note: str | None = None
    """What a reader of the number must know."""


class Weights(Spec):
    """Published weights of a model, trained on a named dataset: a model repo, never trusted before both sha256."""

    name: str
    dataset: str
    hub: HubRepo
    sha256: str = Field(pattern=SHA256)
    """Of ``model.safetensors``."""
    info_sha256: str = Field(pattern=SHA256)
    """Of ``weights.json``."""


class ModelCard(Spec):
    id: str
    family: str
    title: str
    task: Task
    builder: str | None
    """``module:attribute`` of ``build(spec, **preset) -> Model``; null while the model is announced, not here yet."""
    preset: dict[str, Any] = {}
    paper: str
    licence: str
    eeg: EEGSpec | None = None
    """The recordings of the published model; null where it adapts to its dataset."""
    resolution: int | None = None
    trained_on: tuple[str, ...] = ()
    conditioned_on: Condition = "eeg"
    """What it is given of a trial; with labels, it is a control."""
    weights: tuple[Weights, ...] = ()
    """The first ones are the default."""
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class SplitCard(Spec):
    id: str
    protocol: Protocol
    sha256: str | None = Field(default=None, pattern=SHA256)
    """Hash of the packaged split file; null where no file is packaged: a complete copy is then cut alike anywhere."""
    note: str = ""


class DatasetCard(Spec):
    id: str
    title: str
    loader: str | None
    """``module:attribute`` of the dataset's converter; null while the dataset is announced but not here yet."""
    options: dict[str, Any] = {}
    pairing: Pairing
    concepts: tuple[str, ...] = ()
    eeg: EEGSpec | None = None
    n_trials: int | None = None
    n_subjects: int | None = None
    licence: str
    licence_url: str | None = None
    hosts: Literal["everything", "recordings", "splits"]
    """What the licence lets us host: all of it, all but the pictures, or only splits, cards and checksums."""
    terms: str | None = None
    """What a user must accept before it is prepared or pulled; null where the licence asks nothing of the kind."""
    hub: HubRepo | None = None
    """Its dataset repo on the Hub, pinned."""
    citation: str
    source: str
    doi: str | None = None
    get: str
    """How a user obtains the files: one line, shown when they are not here."""
    confounds: tuple[str, ...] = ()
    splits: tuple[SplitCard, ...] = ()
    """The first one is the default."""
    aliases: tuple[str, ...] = ()

    def split(self, name: str | None) -> SplitCard:
        """The split called ``name`` (``subject-out`` or ``subject-out@1``), or the default one."""
        for split in self.splits:
            if name in (None, split.id, split.id.partition("@")[0]):
                return split
        known = ", ".join(s.id for s in self.splits) or "none"
        raise UsageError(f"{self.id} has no split {name!r}; its splits are: {known}.")


class MetricCard(Spec):
    id: str
    title: str
    function: str
    """``module:attribute`` of the pure function that defines it."""
    version: int = 1
    higher_is_better: bool
    best: float | None = None
    chance: str | None = None
    min_n: int = 2
    """Fewest samples it is defined for; below, it is refused, never scored."""
    needs: dict[str, Array]
    """Argument of the function → what it is given. A list where the names are equal."""
    params: dict[str, Any] = {}
    """Further arguments; they are part of the definition, so changing one makes a new ``version``."""
    extractor: str | None = None
    output: str = "features"
    """Which output of the extractor images are compared by."""
    pairing: Literal["instance"] | None = None
    """``instance``: defined only where each trial has a picture of its own."""
    interval: Literal["cluster", "jackknife", "none"]
    definition: str
    source: str
    aliases: tuple[str, ...] = ()

    @field_validator("needs", mode="before")
    @classmethod
    def _same_names(cls, needs: Any) -> Any:
        return {name: name for name in needs} if isinstance(needs, list | tuple) else needs

    @property
    def sees(self) -> Literal["images", "eeg", "responses", "gallery"]:
        """Which side of an evaluation it looks at."""
        if self.extractor is not None:
            return "images"
        if "gallery" in self.needs.values():
            return "gallery"
        return "responses" if "predicted" in self.needs.values() else "eeg"


class ExtractorCard(Spec):
    """A pinned network that turns images into the features metrics compare."""

    id: str
    title: str
    function: str | None = None
    """``module:attribute`` of a function of the images themselves, where there is no network."""
    file: File | None = None
    """Its weights, if it has any; a url ``package:<module>/<path>`` names a file that an installed package ships."""
    resize: str
    """How images reach the network's input size; part of every signature."""
    size: int
    outputs: dict[str, int]
    """Name → length of one image's vector, flattened, in the order in which the network makes them."""
    compares: bool = False
    """Looks at a generated image beside the trial's own picture; each output is then one value per image."""
    source: str


class TrackCard(Spec):
    """An immutable contest: whatever would move a number makes a new ``@N``."""

    id: str
    """``task/dataset.split@N``."""
    task: Task
    dataset: str
    split: str
    resolution: int = 64
    trials: int | None = None
    """How many test trials images are made for (chosen by the hash of their ids); null for all."""
    replicates: int = Field(default=3, ge=1)
    metrics: tuple[str, ...]
    headline: str
    unit: Literal["subject", "run", "stimulus_id", "trial_id"] = "subject"
    """What is resampled for intervals."""
    controls: tuple[str, ...]
    window: tuple[float, float] | None = Field(default=None, exclude_if=lambda window: window is None)
    """From and up to which second after onset responses are compared; null for whole trials."""
    aliases: tuple[str, ...] = ()


class CutFrom(Spec):
    """What a split remembers of its trials, to say how others differ: their number, and a digest per column."""

    n_trials: int
    columns: dict[str, str]


class Split(Spec):
    """Which trial plays which role, as data.

    ``roles[role]`` lists values of the trials column ``unit``; trials named nowhere play ``default``. The file belongs
    to exactly the trials whose fingerprint it names.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+@\d+$")
    dataset: str
    protocol: Protocol
    description: str
    unit: str
    roles: dict[Literal["train", "val", "test"], tuple[str, ...]]
    default: Literal["train", "val", "test", "unused"] = "train"
    trials_fingerprint: str = Field(pattern=SHA256)
    cut_from: CutFrom | None = None

    @model_validator(mode="after")
    def _one_role_each(self) -> Split:
        named = Counter(value for members in self.roles.values() for value in members)
        if twice := [value for value, times in named.items() if times > 1]:
            raise ValueError(f"{self.id} names {self.unit} {twice[0]} twice, but each plays one role")
        return self

    def role_of(self, values: list[str]) -> list[str]:
        """Role of each trial, given its value in column ``unit``."""
        table = {value: role for role, members in self.roles.items() for value in members}
        return [table.get(value, self.default) for value in values]
