"""`equal_ranks`: the ranks of one execution say the same, or differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from typing import ClassVar, Literal, Self

from pydantic import StrictStr, model_validator

from pytest_gates.checks.base import (
    NO_GPUS,
    MetricName,
    NotNegative,
    Outcome,
    RankList,
    Refusal,
    RunCheck,
    Verdict,
    Window,
    more_ranks,
    ranks_of,
)
from pytest_gates.checks.bounds import scope_misfits
from pytest_gates.checks.equal_runs import EqualRuns
from pytest_gates.checks.figures import several
from pytest_gates.checks.strictness import Compare, less, more_of, wider
from pytest_gates.checks.window import ended
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import LaunchedRun, Run

FEWEST = 2


class EqualRanks(RunCheck):
    """The ranks of a run say the same of every metric and fact, bit for bit, or all of them differ.

    Compared as in `equal_runs`: NaN equals nothing. A rank without telemetry decides nothing.
    """

    kind: Literal["equal_ranks"]
    ranks: RankList = "all"
    """The ranks that are compared, each with each: `all` or a list."""
    metrics: tuple[MetricName, ...] = ("train_loss",)
    """Metrics of steps or epochs."""
    facts: tuple[StrictStr, ...] = ()
    """Facts, compared as they are."""
    steps: Window | None = None
    """For metrics of steps: first and last step; the whole run if left out."""
    tolerance: NotNegative = 0
    """Largest difference of a value that still counts as equal; 0 compares bits."""
    expect: Literal["equal", "differ"] = "equal"
    """What must be the case of each two ranks."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "metrics": more_of,
        "facts": more_of,
        "steps": wider,
        "tolerance": less,
    }

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.metrics and not self.facts:
            raise ValueError("give metrics or facts to compare")
        return self

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs of fewer than two ranks, and metrics or windows that the run does not have."""
        many = isinstance(run, LaunchedRun) and run.ranks >= FEWEST
        if not many or self.ranks is None:
            yield (), f"the run has no two ranks; {more_ranks(run)}"
        elif self.ranks != "all" and len(self.ranks) < FEWEST:
            yield ("ranks",), "one rank has none to be compared with"
        if self.metrics:
            yield from scope_misfits(run, self.metrics, self.steps)

    def of_ranks(self, evidence: Evidence) -> tuple[tuple[int | None, Evidence], ...]:
        """The execution as a whole: its ranks are compared with each other."""
        return ((None, evidence),)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        assert self.ranks is not None
        numbers = ranks_of(self.ranks, evidence)
        silent = [rank for rank in numbers if not evidence.of_rank(rank).main.steps.columns]
        if silent and self.metrics:
            text = f"no steps of rank {several([str(rank) for rank in silent])}"
            return self._outcome(Verdict.INCONCLUSIVE, text + ended(evidence), None)
        pairs = [(f"ranks {a} and {b}", evidence.of_rank(a), evidence.of_rank(b))
                 for a, b in combinations(numbers, 2)]  # fmt: skip
        found = self._comparison().compare_all(pairs)
        worth_showing = found.firsts and found.verdict is not Verdict.PASS
        shown = f"{found.text}; {found.firsts[0]}" if worth_showing else found.text
        return self._outcome(found.verdict, shown + ended(evidence), found.count, found.firsts)

    def _comparison(self) -> EqualRuns:
        """How two of them are compared: as two runs are."""
        return EqualRuns(
            kind="equal_runs",
            of=("one rank", "another"),
            metrics=self.metrics,
            facts=self.facts,
            steps=self.steps,
            tolerance=self.tolerance,
            expect=self.expect,
        )

    def _outcome(
        self, verdict: Verdict, text: str, count: int | None, lines: tuple[str, ...] = ()
    ) -> Outcome:
        return Outcome(
            check="equal_ranks",
            verdict=verdict,
            summary=text,
            figure=None if count is None else f"{count} differences",
            limit="0" if self.expect == "equal" else "> 0",
            window=self.steps,
            detail=lines,
        )
