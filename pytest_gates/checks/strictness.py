"""Whether a check asks for more or for less than it did: one field at a time.

What is not proven tighter counts as loosened, so a check that says nothing of a field is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Change(StrEnum):
    """What became of a demand; the worst first."""

    LOOSENED = "LOOSENED"
    CHANGED = "CHANGED"
    TIGHTENED = "TIGHTENED"


Compare = Callable[[Any, Any], Change]
"""Tells what a field's new value, the second, makes of its old one, the first. They differ."""


@dataclass(frozen=True)
class FieldChange:
    """One field that has another value."""

    field: str
    was: Any
    now: Any
    change: Change

    def __str__(self) -> str:
        return f"{self.field} {_word(self.was)} -> {_word(self.now)}"


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_word(one)}" for key, one in value.items()) + "}"
    return str(value)


def unproven(was: Any, now: Any) -> Change:
    """Nobody can tell, so it counts as loosened."""
    return Change.LOOSENED


def less(was: float | None, now: float | None) -> Change:
    """An upper limit: the lower the tighter; none at all is the loosest."""
    return _tighter(now is not None and (was is None or now < was))


def more(was: float | None, now: float | None) -> Change:
    """A lower limit: the higher the tighter; none at all is the loosest."""
    return _tighter(now is not None and (was is None or now > was))


def more_of(was: Any, now: Any) -> Change:
    """Things that are all demanded."""
    return _tighter(set(_listed(now)) >= set(_listed(was)))


def fewer_of(was: Any, now: Any) -> Change:
    """Things of which any will do; none named is not limited at all."""
    return _tighter(now is not None and (was is None or set(_listed(now)) <= set(_listed(was))))


def demanded(was: Any, now: Any) -> Change:
    """A demand that was not there; another one in its place is not comparable."""
    return _tighter(was is None)


def wider(was: tuple[int, int] | None, now: tuple[int, int] | None) -> Change:
    """A window of which every step must do; none is the whole run."""
    return _tighter(now is None or (was is not None and now[0] <= was[0] and now[1] >= was[1]))


def limits(compare: Compare) -> Compare:
    """Limits, each a number or one for each GPU: every GPU that had one must do."""

    def compared(was: Any, now: Any) -> Change:
        if not isinstance(was, Mapping):
            # One number held on every GPU; named ones hold on fewer.
            return Change.LOOSENED if isinstance(now, Mapping) else compare(was, now)
        for gpu, limit in was.items():
            new = now.get(gpu) if isinstance(now, Mapping) else now
            if new != limit and compare(limit, new) is Change.LOOSENED:
                return Change.LOOSENED
        return Change.TIGHTENED

    return compared


def _tighter(proven: bool) -> Change:
    return Change.TIGHTENED if proven else Change.LOOSENED


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)
