"""What a server lets pass in a request although it does not honour it, and who is told.

The validators of pydantic's models take no argument from the route that calls them, so what is to be let
pass and what has been goes with the context of the request being read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote

from codellama.protocol import limits

HEADER = "X-Codellama-Ignored"


@dataclass
class Tolerance:
    """One request's: with `lenient`, names that nobody knows are let pass too. `ignored` are the names of
    fields that say something and were not honoured, in order."""

    lenient: bool = False
    ignored: dict[str, None] = field(default_factory=dict)

    def header(self) -> str:
        """The ignored names for a response header: percent-encoded where they are no plain ASCII."""
        names = list(self.ignored)[: limits.IGNORED_NAMES]
        return ", ".join(quote(name[: limits.NAME_CHARS], safe="._-[]") for name in names)


_current: ContextVar[Tolerance] = ContextVar("tolerance")


@contextmanager
def tolerating(lenient: bool) -> Iterator[Tolerance]:
    """For the request that is read in this block."""
    tolerance = Tolerance(lenient)
    token = _current.set(tolerance)
    try:
        yield tolerance
    finally:
        _current.reset(token)


def lets_pass(name: str) -> bool:
    """Whether a field that nobody knows may be ignored here; notes that it was."""
    tolerance = _current.get(None)
    if tolerance is None or not tolerance.lenient:
        return False
    tolerance.ignored[name] = None
    return True


def note_ignored(name: str) -> None:
    """A known field said something that is not honoured and changes no promise."""
    tolerance = _current.get(None)
    if tolerance is not None:
        tolerance.ignored[name] = None
