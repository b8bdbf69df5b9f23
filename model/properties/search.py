"""The search for a counterexample: hypothesis draws the cases and shrinks what failed.

It runs in the process of the run. This module imports hypothesis, so only a run that declares a
property imports it; and it imports no torch, so that rules of the program itself can be searched
without.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Flaky, NoSuchExample

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Case = TypeVar("Case")
Counterexample = dict[str, Any]
"""A failing case as JSON: what was fed, and what came out against what was expected."""


@dataclass(frozen=True)
class Search(Generic[Case]):
    """A space of cases and the question asked of each."""

    spaces: tuple[SearchStrategy[Case], ...]
    """Searched one after the other, `examples` cases each; a smaller space is searched whole."""
    violation: Callable[[Case], Counterexample | None]
    """The counterexample that a case is, or None where the property holds."""
    examples: int
    recall: Callable[[Counterexample], Case] | None = None
    """The case that an earlier counterexample was, so that it is tried again before all others.
    Raises KeyError, TypeError or ValueError for what is no case of this space."""


@dataclass(frozen=True)
class Outcome:
    """What a search came to; the fields of a telemetry line of kind `property`."""

    name: str
    examples: int
    """Cases tried, up to and with the first that failed; shrinking is not counted."""
    counterexample: Counterexample | None
    """The smallest that failed, or None. `"reproduced": false` in it says that the same case
    held when tried again: what was seen counts, and so does that it cannot be repeated."""


def search(name: str, sought: Search[Any], known: Sequence[Counterexample] = ()) -> Outcome:
    """Try what is known to have failed, then search the spaces, up to a counterexample."""
    tried = 0
    failed: list[Counterexample] = []
    for case in _recalled(sought, known):
        tried += 1
        again = sought.violation(case)
        if again is not None:
            return Outcome(name, tried, again | {"known": True})

    def violates(case: object) -> bool:
        nonlocal tried
        tried += not failed
        found = sought.violation(case)
        if found is not None:
            failed.append(found)
        return found is not None

    for space in sought.spaces:
        try:
            with _private_storage():
                hypothesis.find(space, violates, settings=_settings(sought.examples))
        except NoSuchExample:
            continue
        except Flaky:
            return Outcome(name, tried, failed[-1] | {"reproduced": False})
        # hypothesis runs the smallest case last.
        return Outcome(name, tried, failed[-1])
    return Outcome(name, tried, None)


def _recalled(sought: Search[Case], known: Sequence[Counterexample]) -> Iterator[Case]:
    recall = sought.recall
    if recall is None:
        return
    for one in known:
        try:
            yield recall(one)
        except (KeyError, TypeError, ValueError):  # of another model, or of an older form
            continue


def _settings(examples: int) -> hypothesis.settings:
    # The same cases each time, from no database, under no clock: a verdict must not depend on
    # what an earlier run found or on how busy the machine is. `find` mutes the health checks.
    return hypothesis.settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )


@contextmanager
def _private_storage() -> Iterator[None]:
    # hypothesis caches under ./.hypothesis even without a database; a run leaves nothing there.
    with tempfile.TemporaryDirectory(prefix="pytest-gates-") as folder:
        set_hypothesis_home_dir(Path(folder))
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)
