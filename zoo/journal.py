"""What is written down while a model trains: losses, validation scores, pictures of the same trials time and again.

When something is noted depends on the step alone, so a run that was killed and taken up again leaves the notes of an
uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.stages import whole
from zoo.store import atomic_file, disk_full_explained, write_bytes

LINES = 1000
"""Notes of losses in a phase, at most; the steps of a phase are divided evenly."""
LOOKS = 8
"""How often pictures are made in a phase, the last time at its end."""
Draw = Callable[[], np.ndarray]
"""What a model makes of a few trials as it is: (n, 3, height, width) uint8."""


class Journal:
    """The notes of one phase, in ``folder``.

    Args:
        n_steps: Of the phase.
        draw: Makes the pictures; without it there are none.
    """

    def __init__(self, folder: Path, phase: str, n_steps: int, draw: Draw | None = None) -> None:
        self.phase, self.draw = phase, draw
        self.path, self._strips = folder / f"{phase}.losses.jsonl", folder / f"{phase}.samples"
        self._n_steps, self._every = n_steps, max(1, -(-n_steps // LINES))
        self._looks = {-(-n_steps * k // LOOKS) for k in range(1, LOOKS + 1)} if draw else set()

    def begin(self, step: int) -> None:
        """Go on behind ``step``; what was noted after it is forgotten, since it is done again."""
        if self.path.exists():
            write_bytes(self.path, "".join(_line(note) for note in self.lines() if note["step"] <= step).encode())

    def note(self, step: int, losses: dict[str, float], score: float | None) -> None:
        """After step number ``step``, counted from 1."""
        if score is None and step % self._every and step != self._n_steps:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scored = {} if score is None else {"validation": score}
        with disk_full_explained(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": step, **losses, **scored}))

    def due(self, step: int) -> bool:
        """Whether pictures are to be made after this step."""
        return step in self._looks

    def look(self, step: int) -> None:
        """Keep the pictures of this step, side by side."""
        assert self.draw is not None
        row = np.concatenate([*self.draw().transpose(0, 2, 3, 1)], axis=1)
        self._strips.mkdir(parents=True, exist_ok=True)
        with atomic_file(self._strips / f"step-{step:08}.png") as file:
            Image.fromarray(row).save(file, format="png")

    def lines(self) -> list[dict[str, Any]]:
        """Every note: ``step``, losses by name, ``validation`` where the phase was validated.

        Raises:
            IntegrityError: The file is damaged; that a kill left a piece of a line at its end is no damage.
        """
        with whole(self.path):
            text = self.path.read_text("utf-8") if self.path.exists() else ""
            return [json.loads(line) for line in text.split("\n")[:-1]]

    def strips(self) -> Iterator[tuple[int, Path]]:
        """The step of every row of pictures, and where they are."""
        for path in sorted(self._strips.glob("step-*.png")):
            yield int(path.stem.removeprefix("step-")), path


def _line(note: dict[str, Any]) -> str:
    return json.dumps(note) + "\n"
