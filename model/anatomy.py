"""A step taken apart: a time for each part from marks on the device, and the share of each kernel.

Marks are events on the device's time line, which no part waits for; kernels come from
torch.profiler, in the run's last steps alone, since it slows down what it looks at.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile

from pytest_gates.model.built import compute_dtype
from pytest_gates.model.clock import Clock
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.step import PARTS, Mark, unmarked
from pytest_gates.model.writer import TelemetryWriter

KERNELS_TOLD = 20
LARGE = {"cuda": 8192, "cpu": 512}
"""Rows and columns of a matrix product that reaches the device's ceiling."""
PRODUCTS = 10
PROFILED_STEPS = 3
"""Steps at the end of those taken apart in which kernels are looked at too."""


class Anatomy:
    """Takes the last steps of a run apart, as many as it declares."""

    def __init__(self, run: PretrainRun, clock: Clock[Any], device: torch.device) -> None:
        self._first = run.steps - run.anatomy
        self._profiled_from = max(self._first, run.steps - PROFILED_STEPS) if run.anatomy else None
        self._run, self._clock, self._device = run, clock, device
        self._walls: list[float] = []
        self._marks: list[tuple[str, Any]] = []
        self._profile: Any = None
        self._stack = ExitStack()

    def begin(self, step: int) -> Mark:
        """What is to be called at the end of each part of this step."""
        self._marks = []
        if step == self._profiled_from and self._profile is None:
            self._profile = self._stack.enter_context(profile(activities=self._activities()))
        return self._mark if step >= self._first else unmarked

    def end(self) -> tuple[tuple[str, Any], ...]:
        """The marks of the step that was just launched."""
        return tuple(self._marks)

    def parts(self, since: Any, begin: Any, marks: tuple[tuple[str, Any], ...]) -> dict[str, float]:
        """Milliseconds of each part of a step that was reached; the gap lies before it."""
        if not marks:
            return {}
        total = dict.fromkeys(PARTS, 0.0)
        at = begin
        for part, mark in marks:
            total[part] += self._clock.wall_ms(at, mark)
            at = mark
        gap = self._clock.wall_ms(since, begin)
        self._walls.append(gap + sum(total.values()))
        return {"gap_ms": gap} | {f"{part}_ms": value for part, value in total.items()}

    def say(self, writer: TelemetryWriter) -> None:
        """Say the share of each kernel, on a CPU of each operator, in all their time.

        Facts also: `matmul_tflops`, what a large product of the run's type reaches on its device
        now, and `model_flops_share_pct`, the share of it that the model's FLOPs over the median
        step are.
        """
        if self._profile is None:
            return
        ceiling = self._matmul_tflops()
        writer.fact("matmul_tflops", ceiling)
        reached = self._run.step_flops / median(self._walls) / 1e9
        writer.fact("model_flops_share_pct", 100 * reached / ceiling)
        cuda = self._device.type == "cuda"
        times = {
            row.key: row.self_device_time_total if cuda else row.self_cpu_time_total
            for row in self._profile.key_averages()
        }
        total = sum(times.values())
        largest = sorted(times.items(), key=lambda item: -item[1])[:KERNELS_TOLD]
        writer.fact("kernels", [
            {"name": name[:120], "share_pct": 100 * time / total} for name, time in largest if time
        ])  # fmt: skip

    def _matmul_tflops(self) -> float:
        size, clock = LARGE[self._device.type], self._clock
        dtype = compute_dtype(self._run.dtype, self._device)
        a, b = (torch.randn(size, size, device=self._device, dtype=dtype) for _ in range(2))
        torch.mm(a, b)  # the library chooses its kernel
        marks = [clock.mark()]
        for _ in range(PRODUCTS):
            torch.mm(a, b)
            marks.append(clock.mark())
        clock.wait(marks[-1])
        taken_ms = median(clock.wall_ms(*pair) for pair in pairwise(marks))
        return 2 * size**3 / taken_ms / 1e9

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _mark(self, part: str) -> None:
        self._marks.append((part, self._clock.mark()))

    def _activities(self) -> list[ProfilerActivity]:
        cuda = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        return [ProfilerActivity.CPU, *cuda]
