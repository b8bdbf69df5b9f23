"""`anatomy`: the parts of a step account for its time, and how much of the device they use."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from statistics import median
from typing import Annotated, Literal

from pydantic import Field, StrictFloat, WithJsonSchema

from pytest_gates.checks.base import NO_GPUS, Outcome, Refusal, RunCheck, Verdict
from pytest_gates.checks.ceilings import device_flops
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.figures import headroom, short
from pytest_gates.checks.window import Samples, ended, samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun, Run

PARTS = ("gap_ms", "data_ms", "forward_ms", "backward_ms", "clip_ms", "optimizer_ms")
PartName = Literal["gap", "data", "forward", "backward", "clip", "optimizer"]
Share = Annotated[
    StrictFloat,
    Field(gt=0, lt=1, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
]


class Anatomy(RunCheck):
    """The parts of the steps that were taken apart cover them, and none takes more than its share.

    Shares are of the summed time of the run's last steps, as many as it declares as `anatomy`.
    """

    kind: Literal["anatomy"]
    covers: Share = 0.95
    """Smallest share of the steps' wall time that the parts account for."""
    at_most: Mapping[PartName, Share] = Field(default_factory=dict)
    """Largest share of a part."""
    flops_share_above: Share | None = None
    """Smallest share of the device's matmul ceiling that the model's FLOPs reach."""

    def timed(self) -> bool:
        """Shares of time are time."""
        return True

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs whose steps are not taken apart."""
        if not isinstance(run, PretrainRun) or not run.anatomy:
            yield (), "the run takes no step apart; give it `anatomy: <steps>`"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        run = evidence.run
        assert isinstance(run, PretrainRun), "refused when the contract was loaded"
        window = (run.steps - run.anatomy, run.steps - 1)
        found = {name: samples(evidence, name, window) for name in (*PARTS, "wall_ms")}
        gap = next((one.gap for one in found.values() if one.gap is not None), None)
        if gap is not None:
            return Outcome("anatomy", Verdict.INCONCLUSIVE, gap, window=window)
        sums = {name: math.fsum(one.values) for name, one in found.items()}
        wall = sums.pop("wall_ms")
        shares = {name.removesuffix("_ms"): value / wall for name, value in sums.items()}
        covered = math.fsum(shares.values())
        wrong = list(self._wrong(shares, covered))
        used = self._flops_share(evidence, found["wall_ms"], gpus)
        if isinstance(used, str):
            return Outcome("anatomy", Verdict.INCONCLUSIVE, used, window=window)
        least = self.flops_share_above
        if used is not None and least is not None and not used > least:
            wrong.append(f"FLOPs are {short(used)} of the device's ceiling, {short(least)} wanted")
        parts = ", ".join(f"{name} {share * 100:.1f} %" for name, share in shares.items())
        flops = f"; {used * 100:.1f} % of the matmul ceiling" if used is not None else ""
        return Outcome(
            check="anatomy",
            verdict=Verdict.FAIL if wrong else Verdict.PASS,
            summary=("; ".join(wrong) + ": " if wrong else "") + parts + flops + ended(evidence),
            figure=f"{covered * 100:.1f} % covered",
            limit=f">= {self.covers * 100:g} %",
            headroom_pct=headroom(covered, self.covers, below=False),
            value=covered,
            window=window,
            n=run.anatomy,
            detail=_kernels(evidence),
        )

    def _wrong(self, shares: Mapping[str, float], covered: float) -> Iterator[str]:
        if not self.covers <= covered <= 2 - self.covers:
            yield f"the parts cover {short(covered)} of the steps, {short(self.covers)} wanted"
        for name, limit in self.at_most.items():
            if not shares[name] <= limit:
                yield f"{name} takes {short(shares[name])} of the step, limit {short(limit)}"

    def _flops_share(
        self, evidence: Evidence, wall: Samples, gpus: Mapping[str, float]
    ) -> float | str | None:
        ceiling, flops = device_flops(evidence, gpus), shape_of(evidence.run).step_flops
        if isinstance(ceiling, str):
            return ceiling if self.flops_share_above is not None else None
        assert flops is not None
        return flops / (median(wall.values) / 1000) / ceiling


def _kernels(evidence: Evidence) -> tuple[str, ...]:
    told = evidence.main.facts.get("kernels")
    if not isinstance(told, list):
        return ()
    return tuple(
        f"{one['share_pct']:.1f} % {one['name']}"
        for one in told
        if isinstance(one, dict) and {"name", "share_pct"} <= one.keys()
    )
