"""`fact`: something the run says of itself as a whole."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from pytest_gates.checks.base import NO_GPUS, Number, Outcome, RunCheck, Verdict
from pytest_gates.checks.figures import short
from pytest_gates.checks.strictness import Compare, fewer_of, less, more
from pytest_gates.checks.window import ended
from pytest_gates.evidence import Evidence


def _scalar(value: object) -> object:
    if value is None or not isinstance(value, bool | int | float | str):
        raise ValueError("expected text, a number, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


Scalar = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr, BeforeValidator(_scalar)]


class Fact(RunCheck):
    """A fact has a value, one of several values, or lies within a range (both ends included)."""

    kind: Literal["fact"]
    fact: Annotated[StrictStr, Field(min_length=1)]
    """Name of the fact."""
    equals: Scalar | None = None
    """The value. `true` is not 1, and `1` is 1.0."""
    one_of: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    """Values of which any will do."""
    at_least: Number | None = None
    """Least value of a number."""
    at_most: Number | None = None
    """Largest value of a number."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "one_of": fewer_of,
        "at_least": more,
        "at_most": less,
    }

    @model_validator(mode="after")
    def _one_claim(self) -> Self:
        ranged = self.at_least is not None or self.at_most is not None
        claims = (self.equals is not None, self.one_of is not None, ranged)
        if sum(claims) != 1:
            raise ValueError("give equals, one_of, or a range by at_least and at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"nothing is at least {self.at_least} and at most {self.at_most}")
        return self

    def timed(self) -> bool:
        """A fact's name ends in its unit, as a metric's does."""
        return self.fact.endswith(("_ms", "_s", "_per_sec"))

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A missing fact decides nothing."""
        facts = evidence.main.facts
        limit = self._limit()
        plain = Outcome("fact", Verdict.INCONCLUSIVE, "", limit=limit)
        if facts.get(self.fact) is None:
            there = ", ".join(sorted(facts)) or "none"
            text = f"no fact {self.fact} (run ended {evidence.status}); there are {there}"
            return replace(plain, summary=text)
        value = facts[self.fact]
        holds = self._holds(value)
        verb = "" if holds else "not "
        also = "" if holds else _alternatives(self.fact, facts)
        return replace(
            plain,
            verdict=Verdict.PASS if holds else Verdict.FAIL,
            summary=f"{self.fact} is {_word(value)}, {verb}{limit}{also}{ended(evidence)}",
            figure=_word(value),
            value=float(value) if _is_number(value) else None,
        )

    def _holds(self, value: Any) -> bool:
        if self.equals is not None:
            return _same(value, self.equals)
        if self.one_of is not None:
            return any(_same(value, one) for one in self.one_of)
        if not _is_number(value):
            return False
        over = self.at_least is None or value >= self.at_least
        return bool(over and (self.at_most is None or value <= self.at_most))

    def _limit(self) -> str:
        if self.equals is not None:
            return f"= {_word(self.equals)}"
        if self.one_of is not None:
            return f"one of {_listed(self.one_of)}"
        ends = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {_word(end)}" for word, end in ends if end is not None)


def _alternatives(fact: str, facts: Mapping[str, Any]) -> str:
    """What the fact would be otherwise, where the run says so: `parameters_if_tied`."""
    told = [
        f"{name.removeprefix(fact + '_if_')} {_word(value)}"
        for name, value in sorted(facts.items())
        if name.startswith(f"{fact}_if_")
    ]
    return f"; it would be {', '.join(told)}" if told else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(value: Any, wanted: Scalar) -> bool:
    return isinstance(value, bool) is isinstance(wanted, bool) and bool(value == wanted)


def _listed(values: Collection[object]) -> str:
    return ", ".join(map(_word, values))


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return short(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
