"""Records → a folder of static pages that opens from disk and from any file host, and asks nobody for anything.

Numbers are those of ``ranking.rank`` and ``compare.compare``, as they are: the page only spells them. What strangers
wrote goes into JSON, and from there into text nodes. ``data.js`` holds what the start page needs; tracks, models,
datasets and records lie in files of their own, which the page loads when it shows them.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import shlex
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from leaderboard.board import Shelf
from leaderboard.board import tables as tables_of
from leaderboard.claims import claim_rows, literature, of_cards
from leaderboard.ranking import SHUFFLED, Row, Table
from leaderboard.standing import Note, Standing, standings
from leaderboard.submission import PICTURE, PICTURE_BYTES
from zoo.errors import UsageError, ZooError
from zoo.gallery import MANIFEST, MAX_BYTES, Sheet, check_sheet, read_manifest
from zoo.record import Record, Value
from zoo.specs import ModelCard
from zoo.store import atomic_folder

PAGE = Path(__file__).with_name("site")
MARK = "zoo-leaderboard"
"""What the start page says of itself, so that a folder of ours is known again and may be replaced."""
COMPARED = 6
"""How many of the best are compared with one another, and with their own shuffled control."""
SHOWN = 12
"""Models of a track whose samples are shown beside one another."""
SPARKS = 6
"""Rows of a track on the start page."""
METRIC = ("id", "title", "higher_is_better", "definition", "chance", "source")
"""What the page shows of a metric's card."""
LISTED: dict[str, tuple[str, ...]] = {
    "models": ("id", "title", "task", "licence", "paper", "n_claims", "file", "n"),
    "datasets": (
        *("id", "title", "n_trials", "n_subjects", "pairing", "licence"),
        *("citation", "source", "doi", "file", "n"),
    ),
    "tracks": ("id", "task", "dataset", "split"),
}
"""What lists and other pages need of a card; the rest lies in the file of its own page."""
DIGITS = 6
"""Significant digits of a number on a page and in the table: more than any interval has. The records hold them all."""
SLOW_TO_PACK = 1 << 25
"""Bytes of records that are packed in a hurry; fewer are packed a quarter smaller."""
LICENCE = (
    "The tables and records in this folder are published under CC BY 4.0\n"
    "(https://creativecommons.org/licenses/by/4.0/): use them, and name their authors and this board.\n"
    "Pictures of data sets keep the licence of their data set; the libraries in vendor/ keep theirs.\n"
)


@dataclass(frozen=True)
class Cards:
    """What the registries know, as plain data."""

    models: Sequence[Mapping[str, Any]] = ()
    datasets: Sequence[Mapping[str, Any]] = ()
    tracks: Sequence[Mapping[str, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Built:
    """What a build wrote, and a sentence for everything it left out."""

    folder: Path
    n_records: int
    n_tracks: int
    n_bytes: int
    problems: tuple[str, ...]


def build_site(board: Shelf, folder: Path, cards: Cards | None = None, *, pictures: bool = False) -> Built:
    """Write the site of a board; a folder that holds an older one is replaced when the new one is complete.

    Args:
        board: Where records come from, with the values per trial and samples that lie beside them.
        pictures: Show pictures of every dataset, also of those whose licence keeps them from being published: for
            looking at home.

    Raises:
        UsageError: ``folder`` holds something else.
    """
    _require_ours(folder)
    known = cards or Cards()
    once = _Once(board)
    ranked = tables_of(once, protocols=_protocols(known))
    said: dict[str, list[Note]] = defaultdict(list)
    for note in sorted(once.notes(), key=lambda note: (note.created, note.name)):
        said[note.run].append(note)
    site = _Site(once.kept, ranked, board, known, pictures, said, [*once.problems])
    with atomic_folder(folder) as work:
        shutil.copytree(PAGE, work, dirs_exist_ok=True)
        site.write(work)
        size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    return Built(folder, len(site.records), len(site.tables), size, tuple(site.problems))


class _Once:
    """A board whose records are read from the store once, however often they are asked for."""

    def __init__(self, board: Shelf) -> None:
        self._board, self.kept = board, [*board.records()]
        self.problems = [*board.problems]

    def records(self) -> Iterator[Record]:
        return iter(self.kept)

    def notes(self) -> list[Note]:
        found = self._board.notes()
        self.problems = [*dict.fromkeys((*self.problems, *self._board.problems))]
        return found

    def units(self, record: Record) -> bytes | None:
        return self._board.units(record)

    def beside(self, record: Record, name: str, most: int) -> bytes | None:
        return self._board.beside(record, name, most)


def _protocols(cards: Cards) -> dict[tuple[str, str], Any]:
    """Protocol of (dataset, split), for records that do not name it."""
    return {(card["id"], split["id"]): split["protocol"] for card in cards.datasets for split in card.get("splits", ())}


def _require_ours(folder: Path) -> None:
    start = folder / "index.html"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output-dir must be a folder, but {folder} is a file; name another.")
    if folder.is_dir() and any(folder.iterdir()) and not (start.is_file() and MARK in start.read_text("utf-8")):
        raise UsageError(f"--output-dir must be new, empty or an older site, but {folder} is none; name another.")


def file_name(name: str) -> str:
    """A name as a file name on any system, never that of another name.

    Example:
        >>> file_name("reconstruction/phantom.run-out@1")
        'reconstruction-phantom.run-out-1-ec782a'
    """
    plain = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")[:80]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def stem(record: Record) -> str:
    """What a record is called in addresses of the site."""
    return record.name.rpartition("/")[2].removesuffix(".json")


@dataclass
class _Site:
    """One build: everything is computed from these fields, on first use."""

    records: list[Record]
    ranked: list[Table]
    board: Shelf
    cards: Cards
    pictures: bool
    said: Mapping[str, Sequence[Note]] = field(default_factory=dict)
    """Notes by run, the oldest first."""
    problems: list[str] = field(default_factory=list)

    @cached_property
    def tables(self) -> dict[str, list[Table]]:
        found: dict[str, list[Table]] = defaultdict(list)
        for table in sorted(self.ranked, key=self._newest, reverse=True):
            found[table.track].append(table)
        for contests in found.values():  # a stable sort: the newest of equal ones stays first
            contests.sort(key=lambda table: (table.confounded, -len(table.entries)))
        return found

    def _newest(self, table: Table) -> str:
        rows = (*table.entries, *table.controls, *table.unscored)
        return max(self.by_run[row.run].provenance.created for row in rows)

    @cached_property
    def by_run(self) -> dict[str, Record]:
        return {record.run: record for record in self.records}

    @cached_property
    def by_track(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            found[record.identity.track].append(record)
        return found

    @cached_property
    def notes(self) -> list[Note]:
        return [note for notes in self.said.values() for note in notes]

    @cached_property
    def standings(self) -> dict[str, Standing]:
        """By run."""
        return standings(self.records, self.notes)

    @cached_property
    def runnable(self) -> set[str]:
        """Models and datasets that some registry has the code of: only these can a command evaluate or prepare."""
        cards = (*self.cards.models, *self.cards.datasets)
        return {card["id"] for card in cards if card.get("builder") or card.get("loader")}

    @cached_property
    def claims(self) -> list[dict[str, Any]]:
        """What the literature says, beside what was measured here."""
        cards = [ModelCard.model_validate(card) for card in self.cards.models]
        rows = [asdict(row) for row in claim_rows([*literature(), *of_cards(cards)], self.records, notes=self.notes)]
        for row in rows:
            for measured in row["measured"]:
                measured["stem"] = stem(self.by_run[measured.pop("run")])
        return [_lean(row) for row in rows]

    def write(self, work: Path) -> None:
        for kind in ("tracks", "models", "datasets", "records", "samples", "data"):
            (work / kind).mkdir()
        galleries = {run: shown for run, record in self.by_run.items() if (shown := self._gallery(record, work))}
        for track in self.tables:
            _put(work / "tracks", file_name(track), self._track(track, galleries))
        results, audits = self._results(), self._audits()
        for model, card in self.known["models"].items():
            _put(work / "models", file_name(model), {**_brief(card), "results": results.get(model, [])})
        for dataset, card in self.known["datasets"].items():
            _put(work / "datasets", file_name(dataset), {**_brief(card), "audits": audits.get(dataset, [])})
        for run, record in self.by_run.items():
            _put(
                work / "records", stem(record), self._record(record, galleries.get(run), self._confusion(record, work))
            )
        _put(work, "records", sorted(map(stem, self.by_run.values())))
        _put(work, "claims", self.claims)
        _put(work, "data", self._index(galleries))
        self._dump(work / "data")

    # ---- the start page

    @cached_property
    def known(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        """Cards of models and datasets by id; of those that are in no registry, the id."""
        models: dict[str, Mapping[str, Any]] = {card["id"]: card for card in self.cards.models}
        datasets: dict[str, Mapping[str, Any]] = {card["id"]: card for card in self.cards.datasets}
        for record in self.records:
            models.setdefault(record.identity.model, {"id": record.identity.model})
            datasets.setdefault(record.identity.dataset, {"id": record.identity.dataset})
        return {"models": dict(sorted(models.items())), "datasets": dict(sorted(datasets.items()))}

    def _index(self, galleries: Mapping[str, Any]) -> dict[str, Any]:
        tracks = [self._card_of_track(track) for track in sorted({*self.tables, *(c["id"] for c in self.cards.tracks)})]
        evaluated = Counter(record.identity.model for record in self.records)
        used = Counter(record.identity.dataset for record in self.records)
        return {
            "counts": {
                "records": len(self.records),
                "models": len(evaluated),
                "datasets": len(used),
                "tracks": len(self.tables),
                "claims": len(self.claims),
            },
            "newest": max((record.provenance.created for record in self.records), default=None),
            "tracks": tracks,
            "models": [self._listed("models", name, evaluated[name]) for name in self.known["models"]],
            "datasets": [self._listed("datasets", name, used[name]) for name in self.known["datasets"]],
            "metrics": [{key: card.get(key) for key in METRIC} for card in self.cards.metrics],
            "hero": self._hero(galleries),
        }

    def _listed(self, kind: str, name: str, n: int) -> dict[str, Any]:
        """A card as lists show it: of what it is made of, only whether and what of it this release can make."""
        card = self.known[kind][name]
        brief = {**_brief(card), "file": file_name(name), "n": n}
        found = {key: brief[key] for key in LISTED[kind] if key in brief}
        found |= {key: bool(card[key]) or None for key in ("builder", "loader") if key in card}
        if card.get("splits"):
            found["splits"] = [{"id": split["id"], "protocol": split["protocol"]} for split in card["splits"]]
        return found

    def _card_of_track(self, track: str) -> dict[str, Any]:
        """A track as the start page lists it: its best rows and what shuffled EEG scores there."""
        whole = next((card for card in self.cards.tracks if card["id"] == track), {"id": track})
        card = {key: whole[key] for key in LISTED["tracks"] if key in whole}
        tables = self.tables.get(track, [])
        if not tables:
            return {**card, "file": None, "n": 0}
        table = tables[0]
        newest = self.by_run[(table.entries or table.controls or table.unscored)[0].run]
        shuffled = next((row for row in table.controls if row.name == f"control: {SHUFFLED}"), None)
        return {
            **card,
            "task": track.partition("/")[0],
            "dataset": newest.identity.dataset,
            "split": table.split,
            "file": file_name(track),
            "n": len(table.entries),
            "metric": table.metric,
            "up": table.higher_is_better,
            "verdict": newest.audit.verdict if newest.audit else "unknown",
            "confounded": all(t.confounded for t in tables),
            "rows": [{"name": row.name, "rank": row.rank, "v": _span(row.headline)} for row in table.entries[:SPARKS]],
            "shuffled": _span(shuffled.headline) if shuffled else None,
            "chance": next((row.headline.chance for row in table.entries if row.headline.chance is not None), None),
        }

    def _hero(self, galleries: Mapping[str, Any]) -> dict[str, Any] | None:
        """The samples on the start page: of the clean result that is furthest above its own shuffled control."""
        rows = [
            (row.margin, row, table)
            for tables in self.tables.values()
            for table in tables
            for row in table.entries
            if row.run in galleries and row.verdict == "clean" and row.margin and table.higher_is_better
        ]
        if not rows:
            return None
        _, row, table = max(rows, key=lambda item: (item[0], item[1].run))
        return {
            "record": stem(self.by_run[row.run]),
            "model": row.name,
            "track": table.track,
            "metric": table.metric,
            "v": _span(row.headline),
            "sheets": [sheet for sheet in galleries[row.run] if sheet["picked"]],
        }

    # ---- one track

    def _track(self, track: str, galleries: Mapping[str, Any]) -> dict[str, Any]:
        ranked = [row for table in self.tables[track] for row in table.entries if row.run in galleries][:SHOWN]
        return {
            "id": track,
            "samples": [
                {
                    "rec": stem(self.by_run[row.run]),
                    "name": row.name,
                    "sheets": [sheet for sheet in galleries[row.run] if sheet["picked"]],
                }
                for row in ranked
            ],
            "tables": [self._table(table) for table in self.tables[track]],
            "comparisons": [_told_once(found) for found in self._comparisons(track)],
        }

    def _table(self, table: Table) -> dict[str, Any]:
        rows = [*table.entries, *table.controls, *table.unscored]
        kinds = ["entry"] * len(table.entries) + ["control"] * len(table.controls) + ["unscored"] * len(table.unscored)
        crowd = Counter(row.tie for row in table.entries)
        metrics = [table.metric, *sorted({name for row in rows for name in row.values} - {table.metric})]
        measured = [name for name in metrics if any(_value(row, name) is not None for row in rows)]
        directions = {name: value.higher_is_better for row in rows for name, value in row.values.items()}
        audited = next((record for row in rows if (record := self.by_run[row.run]).audit), None)
        return {
            "metric": table.metric,
            "signature": table.signature,
            "up": table.higher_is_better,
            "confounded": table.confounded,
            "notes": table.notes,
            "split": table.split,
            "ties": table.ties,
            "audit": audited.audit.model_dump(mode="json") if audited and audited.audit else None,
            "metrics": [{"id": name, "up": directions.get(name)} for name in measured],
            "rows": [
                self._row(row, kind, crowd[row.tie] > 1 and kind == "entry")
                for row, kind in zip(rows, kinds, strict=True)
            ],
            "values": [[_span(row.values.get(name)) for row in rows] for name in measured],
        }

    def _row(self, row: Row, kind: str, tied: bool) -> dict[str, Any]:
        record = self.by_run[row.run]
        of, made = record.identity, record.provenance
        found = {
            "kind": kind,
            "name": row.name,
            "model": of.model,
            "rec": stem(record),
            "rank": row.rank,
            "tied": tied or None,
            "margin": row.margin,
            "verdict": row.verdict,
            "reason": row.headline.reason,
            "chance": row.headline.chance,
        }
        if row.rank is not None or kind == "unscored" or row.name == f"control: {of.model}":
            found |= {
                "selection": row.selection,
                "protocol": row.protocol,
                "level": row.level,
                "state": row.state or None,
                "why": row.state_reason or None,
                "by": row.submitter,
                "seed": of.seed,
                "overlap": row.overlap,
                "p": row.p,
                "runs": row.reproductions + 1,
                "spread": row.spread,
                "params": row.n_parameters,
                "speed": row.images_per_second,
                "memory": row.peak_memory_mb,
                "created": made.created[:10],
            }
        return {key: value for key, value in found.items() if value is not None}

    def _comparisons(self, track: str) -> Iterator[dict[str, Any]]:
        """The best of each table with one another and with their own shuffled control, as ``zoo compare`` finds."""
        from leaderboard.compare import Side, compare, siblings

        for table in self.tables[track]:
            best = [self.by_run[row.run] for row in table.entries]
            kept = [record for record in self.by_track[track] if self.standings[record.run].state != "retracted"]
            sides = [
                Side(record, trials, siblings(record, kept), standing=self.standings[record.run])
                for record in [record for record in best if record.units_sha256 is not None][:COMPARED]
                if (trials := self._trials(record))
            ]
            for i, a in enumerate(sides):
                shuffled = [replace(a, system=SHUFFLED)] if SHUFFLED in a.record.controls else []
                for b in (*shuffled, *sides[i + 1 :]):
                    try:
                        found = asdict(compare(a, b))
                    except ZooError as error:
                        self.problems.append(f"{a.name} and {b.name} are not compared: {error}")
                        continue
                    control = None if b.system == "model" else b.system
                    yield {**found, "stems": [stem(a.record), stem(b.record)], "control": control}

    def _trials(self, record: Record) -> Mapping[tuple[str, str], Any]:
        """The values per trial beside a record; nothing, and a sentence, where they are not what they should be."""
        from leaderboard.units import read_units

        try:
            data = self.board.units(record)
            return {} if data is None else read_units(data, record, where=f"the units of {record.name}")
        except ZooError as error:
            self.problems.append(str(error))
            return {}

    # ---- models and datasets

    def _results(self) -> dict[str, list[dict[str, Any]]]:
        """Every result of a model, whatever the track."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for track, contests in self.tables.items():
            for table in contests:
                for row in (*table.entries, *table.unscored, *table.controls):
                    record = self.by_run[row.run]
                    if row.name not in (record.identity.model, f"control: {record.identity.model}"):
                        continue
                    kind = "unscored" if row.rank is None else "entry"
                    made = {key: value for key, value in self._row(row, kind, False).items() if key != "kind"}
                    more = {"track": track, "metric": table.metric, "up": table.higher_is_better}
                    found[record.identity.model].append(
                        {**made, **more, "of": len(table.entries), "v": _span(row.headline)}
                    )
        return found

    def _audits(self) -> dict[str, list[dict[str, Any]]]:
        """The newest audit of each split of a dataset."""
        newest: dict[tuple[str, str], Record] = {}
        for record in sorted(self.records, key=lambda r: (r.provenance.created, r.run)):
            if record.audit is not None:
                newest[record.identity.dataset, record.identity.split] = record
        found: dict[str, list[dict[str, Any]]] = {record.identity.dataset: [] for record in self.records}
        for (dataset, split), record in sorted(newest.items()):
            assert record.audit is not None
            audit = record.audit.model_dump(mode="json")
            found[dataset].append({"split": split, "record": stem(record), **audit})
        return found

    # ---- one record

    def _record(self, record: Record, gallery: list[dict[str, Any]] | None, confusion: bool) -> dict[str, Any]:
        """The record without what it says twice, how to make it again, and its samples or confusions."""
        whole, of = record.model_dump(mode="json", exclude_unset=True), record.identity
        whole["values"] = {}
        dumped = record.model_dump(mode="json", include={"values"})["values"]
        unmeasured: dict[str, list[str]] = defaultdict(list)
        methods: dict[str, int] = {}
        for name, value in record.values.items():
            if value.value is None:
                unmeasured[str(value.reason)].append(name)
            if value.value is not None or name == record.headline:
                measured = _lean({k: v for k, v in dumped[name].items() if k not in ("signature", "p_method")})
                if value.interval_method is not None:
                    measured["interval_method"] = methods.setdefault(value.interval_method, len(methods))
                whole["values"][name] = measured
        whole["methods"], whole["unmeasured"] = [*methods], [*unmeasured.items()]
        whole["identity"].pop("metrics")
        whole["controls"] = {
            name: {metric: span for metric, value in control.values.items() if (span := _span(value)) is not None}
            for name, control in record.controls.items()
        }
        return {
            **whole,
            "id": record.id,
            "run": record.run,
            "stem": stem(record),
            "path": f"records/{record.name}",
            "again": commands(record) if {of.model, of.dataset} <= self.runnable else None,
            "level": self.standings[record.run].level,
            "state": self.standings[record.run].state,
            "why": self.standings[record.run].reason,
            "said": [_said(note) for note in self.said.get(record.run, ()) if note.record == record.id] or None,
            "gallery": None if gallery is None else _once_each(gallery),
            "confusion": confusion,
        }

    def _confusion(self, record: Record, work: Path) -> bool:
        """Copy the confusion matrix beside a record of recognition; on other tracks the picture may show pictures."""
        from leaderboard.verify import wrong_picture

        if not record.identity.track.startswith("recognition/"):
            return False
        try:
            data = self.board.beside(record, PICTURE, PICTURE_BYTES)
            if data is None:
                return False
            if (wrong := wrong_picture(PICTURE, data)) is not None:
                raise UsageError(f"of records/{record.name}, {wrong}")
        except (ZooError, OSError) as error:
            self.problems.append(str(error))
            return False
        (work / "samples" / f"{stem(record)}{PICTURE}").write_bytes(data)
        return True

    def _gallery(self, record: Record, work: Path) -> list[dict[str, Any]] | None:
        """Copy the samples that lie beside a record, without real pictures that may not be shown."""
        target, where = work / "samples" / stem(record), f"records/{record.name.removesuffix('.json')}.samples"
        try:
            manifest = self.board.beside(record, f".samples/{MANIFEST}", MAX_BYTES)
            if manifest is None:
                return None
            sheets = read_manifest(manifest, where=f"{where}/{MANIFEST}")
            shown = [sheet for sheet in sheets if not sheet.real or self._may_show(record.identity.dataset)]
            for sheet in shown:
                data = self.board.beside(record, f".samples/{sheet.file}", MAX_BYTES)
                if data is None:
                    raise UsageError(f"{where} must hold {sheet.file}, which its manifest names, but does not.")
                check_sheet(sheet, data, where=f"{where}/{sheet.file}")
                target.mkdir(exist_ok=True)
                (target / sheet.file).write_bytes(data)
        except (ZooError, OSError) as error:
            self.problems.append(str(error))
            shutil.rmtree(target, ignore_errors=True)
            return None
        return [_of_sheet(sheet) for sheet in shown]

    def _may_show(self, dataset: str) -> bool:
        hosts = next((card.get("hosts") for card in self.cards.datasets if card["id"] == dataset), None)
        return self.pictures or hosts == "everything"

    # ---- for other programs

    def _dump(self, folder: Path) -> None:
        """All records, exact; and a table with a line for every value."""
        (folder / "LICENSE.txt").write_text(LICENCE, encoding="utf-8")
        lines = b"".join(
            json.dumps({"id": r.id, **r.model_dump(mode="json", exclude_unset=True)}, sort_keys=True).encode() + b"\n"
            for r in self.records
        )
        quick = len(lines) > SLOW_TO_PACK
        (folder / "records.jsonl.xz").write_bytes(lzma.compress(lines, preset=1 if quick else 6))
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(
            "track,dataset,split,model,seed,record,system,metric,value,low,high,chance,higher_is_better,n,n_units,"
            "signature,audit,selection,created".split(",")
        )
        for record in self.records:
            writer.writerows(_long(record))
        (folder / "results.csv.gz").write_bytes(gzip.compress(sink.getvalue().encode(), 6, mtime=0))


def commands(record: Record) -> list[str]:
    """What to type to make a record again: every setting is named, none is left to a default that may change."""
    of, made = record.identity, record.provenance
    lines = [f"git checkout {shlex.quote(made.git)}"] if made.git else []
    lines.append(f"zoo data prepare {shlex.quote(of.dataset)}")
    if made.weights_source.startswith("trained"):
        settings = " ".join(
            "--set " + shlex.quote(f"{name}={json.dumps(value)}") for name, value in sorted(of.config.items())
        )
        train = ["zoo train", shlex.quote(of.model), "--dataset", shlex.quote(of.dataset), "--split"]
        lines.append(" ".join([*train, shlex.quote(of.split), f"--seed {of.seed}", settings]).rstrip())
    partial = f" --limit {of.limit}" if of.limit is not None else ""
    lines.append(
        f"zoo eval {shlex.quote(of.model)} --dataset {shlex.quote(of.track)} --seed {of.seed} "
        f"--replicates {of.replicates}{partial}"
    )
    return lines


def _brief(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card with long lists counted; claims have a file of their own."""
    brief = {key: value for key, value in card.items() if key not in ("claims", "options", "preset", "concepts")}
    brief |= {f"n_{key}": len(card[key]) for key in ("claims", "concepts") if card.get(key)}
    if card.get("eeg"):
        brief["eeg"] = {**card["eeg"], "ch_names": len(card["eeg"]["ch_names"])}
    return {key: value for key, value in brief.items() if value not in (None, [], {}) or key in ("builder", "loader")}


def _long(record: Record) -> Iterator[list[Any]]:
    of, made = record.identity, record.provenance
    head = [*map(_harmless, (of.track, of.dataset, of.split, of.model)), of.seed, record.id]
    audit = record.audit.verdict if record.audit else "unknown"
    tail = [audit, _harmless(made.selection), _harmless(made.created)]
    for system, values in (("model", record.values), *((name, one.values) for name, one in record.controls.items())):
        for metric, value in values.items():
            if value.value is None:
                continue
            low, high = value.interval or (None, None)
            numbers = (value.value, low, high, value.chance)
            measured = [
                *("" if x is None else f"{x:.{DIGITS}g}" for x in numbers),
                value.higher_is_better,
                value.n,
                value.n_units,
            ]
            names = [_harmless(system), _harmless(metric)]
            yield [*head, *names, *measured, _harmless(value.signature), *tail]


@cache
def _harmless(cell: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell


def _span(value: Value | None) -> list[float] | None:
    """Value, or value with its interval."""
    if value is None or value.value is None:
        return None
    return [value.value, *(value.interval or ())]


def _value(row: Row, metric: str) -> float | None:
    found = row.values.get(metric)
    return None if found is None else found.value


def _lean(value: Any) -> Any:
    """Without nulls and empty parts of mappings; a page reads what is absent as null."""
    if type(value) is dict:
        return {
            key: _lean(part) for key, part in value.items() if part is not None and part != {} and part not in ([], ())
        }
    return [_lean(part) for part in value] if type(value) in (list, tuple) else value


def _told_once(comparison: dict[str, Any]) -> dict[str, Any]:
    """A comparison without what no page shows, each reason spelled once: pairs have its number."""
    found = _lean(comparison)
    reasons = list(dict.fromkeys(pair["reason"] for pair in found["differences"] if "reason" in pair))
    for pair in found["differences"]:
        for left in ("samples", "seeds"):
            pair.pop(left, None)
        if "reason" in pair:
            pair["reason"] = reasons.index(pair["reason"])
    return {**found, "reasons": reasons}


def _of_sheet(sheet: Sheet) -> dict[str, Any]:
    return sheet.model_dump(mode="json", exclude={"sha256"})


def _once_each(sheets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sheets of the same trials name them once: the later ones say which sheet has them."""
    found: list[dict[str, Any]] = []
    for sheet in sheets:
        same = next((k for k, other in enumerate(found) if other.get("trials") == sheet["trials"]), None)
        left = () if same is None else ("trials", "concepts")
        found.append({key: value for key, value in sheet.items() if key not in left})
        if same is not None:
            found[-1]["as"] = same
    return found


def _said(note: Note) -> dict[str, Any]:
    """A note as the page of its record shows it."""
    whole = note.model_dump(mode="json", exclude_none=True, exclude={"record", "run", "schema_version"})
    if note.evidence is not None:
        whole["evidence"]["n"] = note.evidence.n
    return whole


def _rounded(value: Any) -> Any:
    if type(value) is float:
        return float(f"{value:.{DIGITS}g}")
    if type(value) is dict:
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if type(value) in (list, tuple) else value


def _put(folder: Path, name: str, value: Any) -> None:
    """A script that hands the page its data: the only form that a page opened from disk may read.

    The data is a string to be parsed, never a program; ``__proto__`` in it is a name like any other. Deflated, it is a
    fourth as long, base64 included.
    """
    text = json.dumps(_rounded(value), allow_nan=False, separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(text.encode(), 6)).decode()
    (folder / f"{name}.js").write_text(f"zoo.packed('{packed}')\n", encoding="ascii")
