"""How a run ended and what happened on the way: `exit_status` and `event`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator

from pytest_gates.checks.base import (
    NO_GPUS,
    EventName,
    Outcome,
    Positive,
    Refusal,
    RunCheck,
    Verdict,
    Window,
    words,
)
from pytest_gates.checks.declared import window_misfits
from pytest_gates.checks.figures import headroom, short
from pytest_gates.checks.strictness import Compare, demanded, fewer_of, less, more
from pytest_gates.checks.window import ended
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import RecordedRun, Run
from pytest_gates.model.telemetry import STATUSES
from pytest_gates.vocabulary import hint


def _statuses(value: object) -> object:
    names: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    if not names:
        raise ValueError("expected at least one exit status")
    for name in names:
        if not isinstance(name, str):
            # pydantic reports a ValueError at its place; a TypeError would pass through it.
            raise ValueError("expected the name of an exit status, or a list of names")  # noqa: TRY004
        if name not in STATUSES:
            raise ValueError(f"unknown exit status {name!r}; {hint(name, STATUSES)}")
    return value


StatusName = Annotated[StrictStr, words(STATUSES)]
StatusNames = Annotated[StatusName | tuple[StatusName, ...], BeforeValidator(_statuses)]


class ExitStatus(RunCheck):
    """The run ends with an expected status, in time, and with or without its folder."""

    kind: Literal["exit_status"]
    expect: StatusNames = "COMPLETED"
    """The status, or statuses of which any will do."""
    within_s: Positive | None = None
    """Most seconds from the start of the run's process to its end, measured outside."""
    run_folder: StrictBool | None = None
    """Whether the run's process made its folder."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "expect": fewer_of,
        "within_s": less,
        "run_folder": demanded,
    }

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses of which any will do."""
        return (self.expect,) if isinstance(self.expect, str) else self.expect

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Recordings, of which nobody measured the time or saw the folder."""
        if self.ranks is not None and self.within_s is not None:
            yield ("within_s",), "the time is that of the whole run; leave `ranks` out"
        if isinstance(run, RecordedRun):
            for key in ("within_s", "run_folder"):
                if getattr(self, key) is not None:
                    yield (key,), "nobody outside watched a recorded run"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        expected = self.statuses
        wrong = []
        said = [f"ended {evidence.status}"]
        if evidence.status not in expected:
            because = f" ({evidence.reason})" if evidence.reason else ""
            wrong.append(f"ended {evidence.status}{because}, not {' or '.join(expected)}")
        unknown = self._time(evidence, said, wrong)
        if self.run_folder is not None:
            made = "made" if evidence.run_folder else "did not make"
            text = f"{made} its run folder"
            said.append(text)
            if evidence.run_folder is not self.run_folder:
                wrong.append(text)
        verdict = Verdict.FAIL if wrong else Verdict.INCONCLUSIVE if unknown else Verdict.PASS
        limit = " or ".join(expected)
        plain = Outcome(
            check="exit_status",
            verdict=verdict,
            summary="; ".join(wrong) or unknown or ", ".join(said),
            figure=evidence.status,
            limit=limit,
        )
        if self.within_s is None:
            return plain
        plain = replace(plain, limit=f"{limit} within {short(self.within_s)} s")
        if evidence.wall_ms is None or evidence.status not in expected:
            return plain  # a run that ended otherwise is not held against the time
        seconds = evidence.wall_ms / 1000
        return replace(
            plain,
            figure=f"{evidence.status} in {seconds:.3g} s",
            headroom_pct=headroom(seconds, self.within_s, below=True),
            value=seconds,
            unit="s",
        )

    def _time(self, evidence: Evidence, said: list[str], wrong: list[str]) -> str | None:
        """Say the time, or return why it is not known."""
        if self.within_s is None:
            return None
        if evidence.wall_ms is None:
            return "nobody measured how long the process lived"
        text = f"took {evidence.wall_ms / 1000:.3g} s"
        said.append(text)
        # Written so that a NaN is too long.
        if not evidence.wall_ms / 1000 <= self.within_s:
            wrong.append(f"{text}, limit {short(self.within_s)} s")
        return None


class EventCheck(RunCheck):
    """An event occurs so many times (`exactly: 0` is never), and before another one."""

    kind: Literal["event"]
    event: EventName
    """Name of the event."""
    exactly: Annotated[StrictInt, Field(ge=0)] | None = None
    """How often it occurs."""
    at_least: Annotated[StrictInt, Field(ge=1)] | None = None
    """How often it occurs at least."""
    before: EventName | None = None
    """Every occurrence comes before the first of this event, which occurs too."""
    steps: Window | None = None
    """Only occurrences within these steps count."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {"at_least": more, "before": demanded}

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if (self.exactly is None) == (self.at_least is None):
            raise ValueError("give either exactly or at_least; `exactly: 0` means never")
        if self.before is not None and self.exactly == 0:
            raise ValueError("what never occurs does not occur before anything")
        return self

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Windows that the run does not have."""
        if self.steps is not None:
            yield from window_misfits(run, self.steps)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A run that never said a word decides nothing about `never`."""
        events = evidence.main.events
        places = [index for index, event in enumerate(events)
                  if event.event == self.event and self._inside(event.step)]  # fmt: skip
        count = len(places)
        wanted = (
            f"exactly {self.exactly}" if self.exactly is not None else f"at least {self.at_least}"
        )
        text = f"{self.event} occurs {count} times, {wanted} wanted"
        enough = (
            count == self.exactly if self.exactly is not None else count >= (self.at_least or 0)
        )
        verdict = Verdict.PASS if enough else Verdict.FAIL
        if enough and self.before is not None:
            firsts = [index for index, event in enumerate(events) if event.event == self.before]
            if not firsts or places[-1] > firsts[0]:
                verdict = Verdict.FAIL
                text = f"{self.event} does not come before {self.before}"
                text += "" if firsts else ", which does not occur"
        if not evidence.telemetry and evidence.run_folder:
            verdict, text = Verdict.INCONCLUSIVE, "the run has no telemetry"
        return Outcome(
            check="event",
            verdict=verdict,
            summary=text + ended(evidence),
            figure=f"{count} times",
            limit=wanted,
            window=self.steps,
            n=count,
        )

    def _inside(self, step: int | None) -> bool:
        if self.steps is None:
            return True
        return step is not None and self.steps[0] <= step <= self.steps[1]
