"""`trace_parity` and `same_input`: a forward path against its float64 reference, on the same input.

A slot's own error decides, the one it has when it is computed from the reference's inputs; so the
first divergent slot is where the fault lies, not where it first hurts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, StrictStr, model_validator

from pytest_gates.checks.base import (
    NO_GPUS,
    NO_RUNS,
    Need,
    Outcome,
    Positive,
    Refusal,
    RunCheck,
    RunsCheck,
    Verdict,
)
from pytest_gates.checks.figures import several, short
from pytest_gates.checks.run_parity import (
    Parting,
    compare_sketches,
    places_difference,
    rounding_of,
)
from pytest_gates.checks.slots import Slot, place_misfit, slots_of
from pytest_gates.checks.tolerances import GRADIENT, OWN_ERROR
from pytest_gates.checks.window import unfinished
from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import ForwardRun, Run

NEXT: dict[str, str] = {
    "attn_norm": "compare the norm's weight and epsilon, and at layer 0 the embedding",
    "q": "compare q_proj weight and bias row by row; a permutation of rows is a head order",
    "k": "compare k_proj weight and bias row by row; a permutation of rows is a head order",
    "v": "compare v_proj weight and bias row by row",
    "q_rope": "recompute with the reference's rope_theta, then with pairs (i, i + D/2)",
    "k_rope": "recompute with the reference's rope_theta, then with pairs (i, i + D/2)",
    "attn_out": "feed one token: if it agrees there, look at the mask, else at the kv-head mapping",
    "attn_proj": "compare o_proj weight row by row",
    "residual_mid": "compare what is added to the stream, and in which type",
    "ffn_norm": "compare the norm's weight channel by channel, and its epsilon",
    "ffn_gate": "compare with the reference's ffn_up: equal means gate and up are swapped",
    "ffn_up": "compare with the reference's ffn_gate: equal means gate and up are swapped",
    "ffn_silu": "recompute the activation alone in float64",
    "ffn_swigl": "multiply the reference's ffn_silu with its ffn_up shifted by one column",
    "ffn_out": "compare down_proj weight column by column",
    "residual_out": "compare what is added to the stream, and in which type",
    "final_norm": "compare the final norm's weight and epsilon",
    "logits": "compare lm_head with the embedding: equal means tied",
}
"""The next falsifiable step by the slot that diverged first."""
_SIDES = ("tokens", "positions", "shapes")


def input_difference(
    facts: Mapping[str, Any], sides: tuple[str, str] = ("the path", "the reference")
) -> str | None:
    """How the two sides' inputs differ, in words, or None; also where one of them is not known."""
    side = different_side(facts)
    if side is None:
        return None
    if not _known(facts, side):
        return f"the hash of the {side} of both sides is not in the evidence"
    counts = facts.get("tokens"), facts.get("reference_tokens")
    told = f"{counts[0]} {side} on both sides, but not the same ones"
    if counts[0] != counts[1]:
        told = f"{counts[0]} tokens were fed to {sides[0]}, {counts[1]} to {sides[1]}"
    elif side == "shapes":
        told = f"shapes differ: {facts.get('shape_difference')}"
    return told + _tokenizers(facts) if side == "tokens" else told


def _tokenizers(facts: Mapping[str, Any]) -> str:
    """Which tokenizers made the tokens, in brackets, if they are known to be two."""
    mine, theirs = (
        (facts.get(f"{who}tokenizer"), facts.get(f"{who}tokenizer_sha256"))
        for who in ("", "reference_")
    )
    if None in (mine[0], theirs[0]) or mine == theirs:
        return ""
    names = [name if sha is None else f"{name} {sha[:8]}" for name, sha in (mine, theirs)]
    return f" (tokenizers: {names[0]} and {names[1]})"


def different_side(facts: Mapping[str, Any]) -> str | None:
    """The first of tokens, positions and shapes that differs or is not known; None: none does."""
    return next(
        (
            side
            for side in _SIDES
            if not _known(facts, side)
            or facts[f"{side}_sha256"] != facts[f"reference_{side}_sha256"]
        ),
        None,
    )


def _known(facts: Mapping[str, Any], side: str) -> bool:
    return None not in (facts.get(f"{side}_sha256"), facts.get(f"reference_{side}_sha256"))


def next_step(slot: Slot, eliminated: tuple[str, ...]) -> tuple[str, str]:
    """What is no suspect any more, and the next step that can be wrong."""
    cleared = several(eliminated[::-1]) if eliminated else "nothing"
    step = NEXT.get(slot.name, "compare the parameter and what reaches it")
    return f"eliminated: {len(eliminated)} slots before it ({cleared})", f"next: {step}"


@dataclass(frozen=True)
class Divergence:
    """The first slot whose own error is beyond its tolerance."""

    slot: Slot
    error: float
    limit: float
    eliminated: tuple[str, ...]
    """Slots before it, each within its tolerance."""


def tolerance_key(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Rows of the tolerance tables that apply: the compute type, and how weights are stored."""
    keys = {str(facts.get("compute_dtype")), str(facts.get("parameter_dtype"))}
    if facts.get("reference_weight_types") != facts.get("weight_types"):
        stored = f"{facts.get('weight_types')},{facts.get('reference_weight_types')}"
        keys |= set(stored.split(","))
    return tuple(sorted(keys & OWN_ERROR.keys()))


def first_divergence(
    slots: list[Slot], keys: tuple[str, ...], *, backward: bool = False, factor: float = 1.0
) -> Divergence | None:
    """The first slot, in the order of the pass, whose own error is too large.

    A gradient has no own error: there it is the distance of the whole, in the order of the
    backward pass, so that the first is the last that the forward pass computed with.
    """
    before: list[str] = []
    metric = "rel_l2" if backward else "own_rel_l2"
    for slot in slots:
        if metric not in slot.figures or slot.is_gradient is not backward:
            continue
        error = slot.figures[metric]
        table = GRADIENT if backward else OWN_ERROR
        limit = factor * max(table[key].get(slot.computed_by, 0.0) for key in keys)
        if not error <= limit:
            return Divergence(slot, error, limit, tuple(before))
        before.append(slot.at)
    return None


class _Beside(RunCheck):
    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs without a reference."""
        if not isinstance(run, ForwardRun) or run.against is None:
            yield (), "the run declares no `against`, so that there is nothing to compare with"


def _two(value: object) -> object:
    named = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if not named or len(value) != 2:  # type: ignore[arg-type]  # noqa: PLR2004 - just seen; a pair
        raise ValueError("expected two runs by name, the path and its reference: [a, b]")
    if value[0] == value[1]:  # type: ignore[index]  # just seen
        raise ValueError("a run equals itself; declare the second one with `from`")
    return value


class TraceParity(_Beside):
    """Every slot of the path equals the reference's, up to what its number format explains.

    The reference is the float64 one that a run feeds beside itself, or another run.
    """

    kind: Literal["trace_parity"]
    of: Annotated[tuple[StrictStr, StrictStr] | None, BeforeValidator(_two)] = None
    """Two runs with `sketch: true`, the path and its reference; left out: the gate's own run and
    what it is `against`."""
    direction: Literal["forward", "backward"] = "forward"
    """Slots of the forward pass, or gradients of the parameters."""
    factor: Positive = 1.0
    """Times the calibrated tolerance of the number format."""

    @model_validator(mode="after")
    def _forward_alone(self) -> Self:
        if self.of is not None and self.direction == "backward":
            raise ValueError("two runs are compared forward; gradients need `against`")
        return self

    def over_runs(self) -> RunsCheck | None:
        """See `Check.over_runs`."""
        return None if self.of is None else ParityOfRuns(of=self.of, factor=self.factor)

    def needs(self) -> tuple[Need, ...]:
        """The runs that are compared."""
        return tuple(Need(name) for name in self.of or ())

    def refusals(
        self,
        run: Run | None,
        gpus: Collection[str] = frozenset(),
        runs: Mapping[str, Run] = NO_RUNS,
    ) -> Iterator[Refusal]:
        """See `Check.refusals`."""
        several = self.over_runs()
        if several is None:
            yield from super().refusals(run, gpus, runs)
        else:
            yield from several.refusals(run, gpus, runs)

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that do not compare what the check asks for."""
        yield from super().misfits(run, gpus)
        against = run.against if isinstance(run, ForwardRun) else None
        if self.direction == "backward" and against is not None and not against.backward:
            yield ("direction",), "the run's `against` does not say `backward: true`"

    def slot_misfit(self, slot: str, runs: Mapping[str, Run]) -> str | None:
        """See `Check.slot_misfit`."""
        return place_misfit(slot, runs.values())

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. Where the inputs differ nothing is compared."""
        facts = evidence.main.facts
        stopped = unfinished(evidence) or input_difference(facts)
        keys = tolerance_key(facts)
        if stopped is None and not keys:
            stopped = f"no tolerance is calibrated for {facts.get('compute_dtype')}"
        backward = self.direction == "backward"
        slots = [one for one in slots_of(evidence) if one.is_gradient is backward]
        metric = "rel_l2" if backward else "own_rel_l2"
        if stopped is None and not any(metric in one.figures for one in slots):
            different = facts.get("parameter_difference")
            stopped = f"the evidence has no {metric}"
            stopped = f"parameters differ: {different}" if different and backward else stopped
        if stopped is not None:
            return self._outcome(Verdict.INCONCLUSIVE, stopped)
        found = first_divergence(slots, keys, backward=backward, factor=float(self.factor))
        if found is not None:
            return self._diverged(found, slots)
        worst = max(slots, key=lambda one: one.figures.get(metric, -math.inf))
        error = worst.figures[metric]
        text = f"{len(slots)} slots agree ({', '.join(keys)}); largest error {short(error)} at "
        passed = self._outcome(Verdict.PASS, text + worst.at, f"max {short(error)}")
        return replace(passed, value=error)

    def _diverged(self, found: Divergence, slots: list[Slot]) -> Outcome:
        what = "gradient" if self.direction == "backward" else "own error"
        text = f"first divergent slot {found.slot.at}: {what} {short(found.error)}, limit "
        text += short(found.limit)
        last = slots[-1].figures.get("rel_l2") if self.direction == "forward" else None
        if last is not None:
            text += f"; the logits are off by {short(last)}"
        detail = next_step(found.slot, found.eliminated)
        told = self._outcome(Verdict.FAIL, f"{text}; {'; '.join(detail)}", found.slot.at)
        limit = f"<= {short(found.limit)}"
        return replace(told, value=found.error, limit=limit, slot=found.slot.at, detail=detail)

    @staticmethod
    def _outcome(verdict: Verdict, summary: str, figure: str | None = None) -> Outcome:
        return Outcome("trace_parity", verdict, summary, figure, statistic="relative L2")


class ParityOfRuns(RunsCheck):
    """`trace_parity` over two runs: see `run_parity`."""

    of: tuple[StrictStr, StrictStr]
    factor: Positive = 1.0

    def refusals(
        self,
        run: Run | None,
        gpus: Collection[str] = frozenset(),
        runs: Mapping[str, Run] = NO_RUNS,
    ) -> Iterator[Refusal]:
        """See `Check.refusals`."""
        for name in self.of:
            one = runs.get(name)
            if isinstance(one, ForwardRun) and one.sketch:
                continue
            if isinstance(one, ForwardRun):
                yield ("of",), f"run {name} keeps no sketch of its slots; give it `sketch: true`"
            elif one is not None:
                yield ("of",), f"run {name} of driver {one.driver} traces no slots"

    def evaluate(self, evidence: Mapping[str, tuple[Evidence, ...]]) -> Outcome:
        """See `RunsCheck.evaluate`. Where the inputs differ nothing is compared."""
        pair = [evidence[name][0] for name in self.of if evidence.get(name)]
        plain = Outcome("trace_parity", Verdict.BLOCKED, "", statistic="relative L2")
        if len(pair) < len(self.of):
            return replace(plain, summary=f"{len(pair)} of 2 executions are there")
        # Gradients, which only a reference beside a run has, leave no sketch.
        slots = [[slot for slot in slots_of(one) if not slot.is_gradient] for one in pair]
        stopped = self._stopped(pair, slots)
        keys = _tolerance_keys(pair)
        if stopped is None and not all(keys):
            stopped = "no tolerance is calibrated for the runs' number formats"
        if stopped is not None:
            return replace(plain, verdict=Verdict.INCONCLUSIVE, summary=stopped)
        rounding = {slot: float(self.factor) * own for slot, own in rounding_of(*keys).items()}
        try:
            found = compare_sketches(slots[0], slots[1], rounding)
        except EvidenceError as error:
            return replace(plain, verdict=Verdict.INCONCLUSIVE, summary=str(error))
        if found.parting is not None:
            return self._parted(plain, found.parting)
        worst = max(found.distances, key=found.distances.__getitem__)
        distance = found.distances[worst]
        formats = ", ".join(sorted({key for side in keys for key in side}))
        text = f"{len(slots[0])} slots of {self.of[0]} and {self.of[1]} agree ({formats}); "
        text += f"largest distance {short(distance)} at {worst}"
        return replace(
            plain,
            verdict=Verdict.PASS,
            summary=text,
            figure=f"max {short(distance)}",
            value=distance,
        )

    def _stopped(self, pair: list[Evidence], slots: list[list[Slot]]) -> str | None:
        """Why nothing can be compared, or None."""
        early = next(filter(None, map(unfinished, pair)), None)
        if early is not None:
            return early
        if any(slot.sketch is None for side in slots for slot in side) or not all(slots):
            return "the evidence has no sketch of every slot"
        facts, others = (one.main.facts for one in pair)
        theirs = {f"reference_{name}": value for name, value in others.items()}
        difference = {"shape_difference": places_difference(*slots)}
        return input_difference({**facts, **theirs, **difference}, self.of)

    def _parted(self, plain: Outcome, found: Parting) -> Outcome:
        text = f"first divergent slot {found.slot.at}: {self.of[0]} is {short(found.distance)} off "
        text += f"{self.of[1]}, limit {short(found.limit)}, inherited {short(found.inherited)}"
        detail = next_step(found.slot, found.eliminated)
        return replace(
            plain, verdict=Verdict.FAIL, summary=f"{text}; {'; '.join(detail)}",
            figure=found.slot.at, limit=f"<= {short(found.limit)}", value=found.distance,
            slot=found.slot.at, detail=detail,
        )  # fmt: skip


def _tolerance_keys(pair: list[Evidence]) -> list[tuple[str, ...]]:
    """The rows that apply to each side; how weights are stored counts where the sides differ."""
    facts, others = (one.main.facts for one in pair)
    stored = (facts.get("weight_types"), others.get("weight_types"))
    return [
        tolerance_key({**mine.main.facts, "weight_types": kind, "reference_weight_types":
                       kind if stored[0] == stored[1] else None})
        for mine, kind in zip(pair, stored, strict=True)
    ]  # fmt: skip


class SameInput(_Beside):
    """Path and reference were fed the same tokens at the same positions, in the same shapes."""

    kind: Literal["same_input"]

    def slot_misfit(self, slot: str, runs: Mapping[str, Run]) -> str | None:
        """See `Check.slot_misfit`: what differs stands for the slot."""
        return None if slot in _SIDES else f"its slots are {', '.join(_SIDES)}, not `{slot}`"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. Inputs that are not known prove nothing."""
        facts = evidence.main.facts
        known = all(
            facts.get(f"{who}{side}_sha256") for who in ("", "reference_") for side in _SIDES
        )
        difference = input_difference(facts)
        if difference is None:
            verdict, text = Verdict.PASS, f"{facts.get('tokens')} tokens, the same on both sides"
        else:
            verdict, text = Verdict.FAIL if known else Verdict.INCONCLUSIVE, difference
        # A run that was refused has told no hash, and its reason says more.
        why = text if known else unfinished(evidence) or text
        told = Outcome("same_input", verdict, why, figure=text, limit="the same input")
        return replace(told, slot=different_side(facts)) if verdict is Verdict.FAIL else told
