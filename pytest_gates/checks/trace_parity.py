"""`trace_parity` and `same_input`: a forward path against its float64 reference, on the same input.

A slot's own error decides, the one it has when it is computed from the reference's inputs; so the
first divergent slot is where the fault lies, not where it first hurts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pytest_gates.checks.base import NO_GPUS, Outcome, Positive, Refusal, RunCheck, Verdict
from pytest_gates.checks.figures import several, short
from pytest_gates.checks.slots import Slot, place_misfit, slots_of
from pytest_gates.checks.tolerances import GRADIENT, OWN_ERROR
from pytest_gates.checks.window import unfinished
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


def input_difference(facts: Mapping[str, Any]) -> str | None:
    """How the two sides' inputs differ, in words, or None; also where one of them is not known."""
    side = different_side(facts)
    if side is None:
        return None
    if not _known(facts, side):
        return f"the hash of the {side} of both sides is not in the evidence"
    counts = facts.get("tokens"), facts.get("reference_tokens")
    if counts[0] != counts[1]:
        return f"{counts[0]} tokens were fed to the path, {counts[1]} to the reference"
    if side == "shapes":
        return f"shapes differ: {facts.get('shape_difference')}"
    return f"{counts[0]} {side} on both sides, but not the same ones"


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
        if metric not in slot.figures or ("grad_cosine" in slot.figures) is not backward:
            continue
        error = slot.figures[metric]
        table = GRADIENT if backward else OWN_ERROR
        name = slot.name.split(".")[-2 if "." in slot.name else 0] if backward else slot.name
        name = name.removeprefix("grad ")
        limit = factor * max(table[key].get(name, 0.0) for key in keys)
        if not error <= limit:
            return Divergence(slot, error, limit, tuple(before))
        before.append(slot.at)
    return None


class _Beside(RunCheck):
    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs without a reference."""
        if not isinstance(run, ForwardRun) or run.against is None:
            yield (), "the run declares no `against`, so that there is nothing to compare with"


class TraceParity(_Beside):
    """Every slot of the path equals the reference's, up to what its number format explains."""

    kind: Literal["trace_parity"]
    direction: Literal["forward", "backward"] = "forward"
    """Slots of the forward pass, or gradients of the parameters."""
    factor: Positive = 1.0
    """Times the calibrated tolerance of the number format."""

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
        slots = [one for one in slots_of(evidence) if ("grad_cosine" in one.figures) is backward]
        metric = "rel_l2" if backward else "own_rel_l2"
        if stopped is None and not any(metric in one.figures for one in slots):
            stopped = f"the evidence has no {metric}"
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
        cleared = several(found.eliminated[::-1]) if found.eliminated else "nothing"
        step = NEXT.get(found.slot.name, "compare the parameter and what reaches it")
        detail = (
            f"eliminated: {len(found.eliminated)} slots before it ({cleared})",
            f"next: {step}",
        )
        told = self._outcome(Verdict.FAIL, f"{text}; {'; '.join(detail)}", found.slot.at)
        limit = f"<= {short(found.limit)}"
        return replace(told, value=found.error, limit=limit, slot=found.slot.at, detail=detail)

    @staticmethod
    def _outcome(verdict: Verdict, summary: str, figure: str | None = None) -> Outcome:
        return Outcome("trace_parity", verdict, summary, figure, statistic="relative L2")


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
        told = Outcome("same_input", verdict, text, figure=text, limit="the same input")
        return replace(told, slot=different_side(facts)) if verdict is Verdict.FAIL else told
