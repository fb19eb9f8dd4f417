"""Errors a user can act on, each with the exit code of the command line.

One sentence: what must hold, what came, what to do. The CLI prints it without a traceback (``ZOO_DEBUG=1`` shows one).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """Something failed while running; base of every error raised on purpose (exit 1)."""

    exit_code = 1

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else type(self).__name__


class UsageError(ZooError, ValueError):
    """An argument, a file or an array is not what it must be (exit 2)."""

    exit_code = 2


class UnknownNameError(UsageError, KeyError):
    """A name is in no registry (exit 2)."""


class GateError(ZooError):
    """A gate said no: an audit, a verification, an incomplete record (exit 3)."""

    exit_code = 3


class IntegrityError(ZooError):
    """Bytes are not the bytes they should be, or a licence was not accepted (exit 4)."""

    exit_code = 4


class MissingError(ZooError):
    """Needs data, weights or a network that is not here; the message names the command that brings it (exit 5)."""

    exit_code = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """How a sentence about an unknown name ends: with the known names that are close, or at once.

    Example:
        >>> did_you_mean("eeg2imag", ["nice", "eeg2image"])
        "; did you mean 'eeg2image'?"
        >>> did_you_mean("x", ["nice", "eeg2image"])
        '.'
    """
    close = difflib.get_close_matches(name, list(known))
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
