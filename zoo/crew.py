"""Which one of several processes this is, as torchrun says it in the environment. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from zoo.errors import UsageError


@dataclass(frozen=True)
class Crew:
    """``size`` processes that do one job together; this one is number ``rank``, and ``local`` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process says what all have to say, and writes what is written once."""
        return self.rank == 0


def here() -> Crew:
    """The crew that torchrun (or whatever sets its variables) started this process in; else a crew of one.

    Raises:
        UsageError: RANK and WORLD_SIZE are not a number and a larger one.
    """
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or size is None:
        return Crew()
    if not (rank.isdigit() and size.isdigit() and int(rank) < int(size)):
        raise UsageError(
            f"RANK and WORLD_SIZE must be a number and a larger one, but are {rank!r} and {size!r}; start with "
            "torchrun, or unset both."
        )
    return Crew(int(rank), int(size), int(os.environ.get("LOCAL_RANK", rank)))
