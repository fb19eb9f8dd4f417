"""How often the split audit accuses clean phantoms and misses confounded ones, with Clopper-Pearson intervals.

python benchmarks/audit_calibration.py [--n 200]

Every seed makes a phantom of its own: responses, noise, order of trials, pictures. ``any p ≤ 0.05`` is the share of the
deciding questions' answers that would be called significant one by one: at most 0.05 if p means what it says.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import binomtest

from zoo.audits.duplicates import Pictures, thumbnails
from zoo.audits.leakage import LeakageReport, audit_split
from zoo.datasets.base import Prepared, decode
from zoo.datasets.phantom import generate

SIZE = {"n_subjects": 3, "n_runs": 2, "n_exemplars": 8}
HIDDEN = ("subject", "concept")
"""Columns that are left where the design is withheld: then only the signal before onset can tell."""
CASES = {
    "phantom, stimulus-out": (False, "stimulus-out", False, "clean"),
    "phantom, subject-out": (False, "subject-out", False, "clean"),
    "phantom-block, run-out": (True, "run-out", False, "clean"),
    "phantom-block, block": (True, "block", False, "confounded"),
    "phantom-block, block, design withheld": (True, "block", True, "confounded"),
}
"""Name → block design, split, design withheld, right verdict."""


@dataclass
class Tally:
    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    p: list[float] = field(default_factory=list)

    def add(self, report: LeakageReport) -> None:
        self.verdicts[report.verdict] += 1
        deciding = [found for found in report.findings if found.decides]
        self.outcomes.update((found.name, report.outcome(found)) for found in deciding)
        self.p += [found.p for found in deciding]


def audit(made: Prepared, name: str, *, withheld: bool) -> LeakageReport:
    split = next(split for split in made.splits if split.id.startswith(name))
    roles = np.array(split.role_of(made.trials[split.unit].tolist()))
    trials: Mapping[str, np.ndarray] = made.trials
    if withheld:
        trials = {column: made.trials[column] for column in HIDDEN}
    row = {stimulus.stimulus_id: i for i, stimulus in enumerate(made.stimuli)}
    shown = np.array([row[name] for name in made.trials["stimulus_id"]])
    pictures = Pictures(
        np.array([stimulus.image.hex() for stimulus in made.stimuli]),
        thumbnails(decode(stimulus.image) for stimulus in made.stimuli),
        *(np.unique(shown[roles == role]) for role in ("train", "test")),
    )
    return audit_split(
        eeg=np.concatenate(list(made.eeg)),
        spec=made.spec,
        labels=np.array([made.concepts.index(concept) for concept in made.trials["concept"]]),
        trials=trials,
        roles=roles,
        protocol=split.protocol,
        pictures=pictures,
    )


def main(n: int) -> None:
    tallies = {name: Tally() for name in CASES}
    for seed in range(n):
        phantoms = {blocked: generate(seed=seed, blocked=blocked, **SIZE) for blocked in (False, True)}
        for name, (blocked, split, withheld, _) in CASES.items():
            tallies[name].add(audit(phantoms[blocked], split, withheld=withheld))
    n_trials = len(phantoms[False].trials["trial_id"])
    print(f"{n} phantoms per line, {n_trials} trials each; 95 % Clopper-Pearson intervals\n")
    print(f"{'':40}{'right verdict':>16}{'wrong, share':>32}{'any p ≤ 0.05':>16}   verdicts")
    for name, (*_, right) in CASES.items():
        tally = tallies[name]
        wrong = n - tally.verdicts[right]
        interval = binomtest(wrong, n).proportion_ci(method="exact")
        share = f"{wrong / n:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        single = f"{np.mean(np.array(tally.p) <= 0.05):.3f}" if right == "clean" else "–"
        print(f"{name:40}{right:>16}{share:>32}{single:>16}   {dict(tally.verdicts)}")
    print("\nshare of phantoms in which a question finds a leak or a trace")
    questions = list(dict.fromkeys(question for tally in tallies.values() for question, _ in tally.outcomes))
    print(f"{'':40}" + "".join(f"{question:>18}" for question in questions))
    for name, tally in tallies.items():
        asked = Counter(question for question, _ in tally.outcomes.elements())
        found = {q: tally.outcomes[q, "leak"] + tally.outcomes[q, "trace"] for q in questions}
        print(f"{name:40}" + "".join(f"{found[q] / asked[q]:18.3f}" if asked[q] else f"{'–':>18}" for q in questions))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="phantoms of each kind")
    main(parser.parse_args().n)
