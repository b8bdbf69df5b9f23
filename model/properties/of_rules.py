"""Properties of the program's own rules, each a function that returns a `Search`. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hypothesis import strategies

from pytest_gates.model import device
from pytest_gates.model.config import Optimizer
from pytest_gates.model.device import DeviceRequest
from pytest_gates.model.properties.search import Counterexample, Search
from pytest_gates.model.searches import DeviceGrammarProperty, ScheduleForm

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

    from pytest_gates.model.seams import Seams

_LANGUAGE: dict[str, DeviceRequest] = {
    "cpu": DeviceRequest("cpu"),
    "auto": DeviceRequest("auto"),
    "cuda": DeviceRequest("cuda", 0),
    **{f"cuda:{index}": DeviceRequest("cuda", index) for index in range(16)},
}
"""The whole language, written out: the oracle shares nothing with the parser's pattern."""

_NEAR_MISSES = (
    *("", " ", "\n", "\0", ":", "0", "cpu:0", "auto:0", "cuda:", "cuda0", "cuda::0", "cuda:0:0"),
    *("cpu\n", "cuda\n", "cuda:0\n", "auto\n", "cuda:15\n", "cuda\r", "\ncuda", "cuda\0"),
    *(" cpu", "cpu ", " cuda:0", "cuda:0 ", "cuda: 0", "cuda :0", "cuda:\t0", "cuda\u00a0"),
    *("CPU", "Cuda", "CUDA:0", "AUTO", "cUda:1", "\uff43uda", "cud\u0430", "cuda\u200b"),
    *("cuda:16", "cuda:99", "cuda:150", "cuda:00", "cuda:01", "cuda:015", "cuda:1_5"),
    *("cuda:-1", "cuda:+1", "cuda:1.0", "cuda:1e0", "cuda:0x1", "cuda:None"),
    *("cuda:\u0663", "cuda:\uff11", "cuda:\u00b2", "cuda:1\u0665", "cuda\uff1a0"),
    *("cpu,cuda", "cpucuda", "cpu|auto", "gpu", "mps", "xpu", "hip:0", "meta"),
)


def device_grammar(
    declared: DeviceGrammarProperty, parse: Callable[[str], DeviceRequest] | None = None
) -> Search[str]:
    """The device parser accepts exactly `cpu|cuda(:[0-9]|:1[0-5])?|auto`, and reads it rightly.

    Three spaces: the language itself, near-misses that real parsers have let through, and
    edited words among arbitrary text. `parse` is `device.parse_device` unless given; what it
    refuses, it refuses by ValueError.
    """
    parser = parse or device.parse_device

    def violation(name: str) -> Counterexample | None:
        expected = _LANGUAGE.get(name)
        try:
            became: DeviceRequest | None = parser(name)
        except ValueError:
            became = None
        if became == expected:
            return None
        return {"name": name, "parsed": _plain(became), "expected": _plain(expected)}

    spaces = (
        strategies.sampled_from(sorted(_LANGUAGE)),
        strategies.sampled_from(_NEAR_MISSES),
        strategies.text(max_size=12) | _edited(),
    )
    return Search(spaces, violation, declared.examples, lambda known: str(known["name"]))


def _plain(request: DeviceRequest | None) -> str:
    if request is None:
        return "refused"
    return f"{request.kind}:{request.index}" if request.kind == "cuda" else request.kind


def _edited() -> SearchStrategy[str]:
    """Words of the language with a few characters put in place of others."""
    odd = (
        strategies.sampled_from("cpudatoCPUDATO:0123456789 \n\t\r-+_.\u0663\uff11\u00b2")
        | strategies.characters()
    )

    @strategies.composite
    def draw_edited(draw: DrawFn) -> str:
        name = draw(strategies.sampled_from(sorted(_LANGUAGE)))
        for _ in range(draw(strategies.integers(1, 3))):
            start = draw(strategies.integers(0, len(name)))
            stop = draw(strategies.integers(start, min(start + 2, len(name))))
            name = name[:start] + draw(strategies.text(odd, max_size=2)) + name[stop:]
        return name

    return draw_edited()


Rate = Callable[[int, int, Optimizer], float]
"""A schedule: (step, steps, settings) -> learning rate."""


def schedule(declared: ScheduleForm, rate: Rate) -> Search[tuple[int, int, int]]:
    """Step k of a warm-up of W has peak (k + 1) / W; later the cosine falls from peak to floor.

    Written as half-angle squares, cos(x/2)^2 and sin(x/2)^2, not as the trainer computes it.
    """
    settings = Optimizer(lr=1.0, min_lr_ratio=0.1)

    def violation(case: tuple[int, int, int]) -> Counterexample | None:
        step, steps, warmup = case
        optimizer = settings.model_copy(update={"warmup_steps": warmup})
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            half = math.pi / 2 * (step - warmup) / (steps - warmup)
            expected = math.cos(half) ** 2 + 0.1 * math.sin(half) ** 2
        found = rate(step, steps, optimizer)
        if math.isclose(found, expected, rel_tol=1e-12):
            return None
        return {"step": step, "steps": steps, "warmup": warmup, "lr": found, "expected": expected}

    @strategies.composite
    def schedules(draw: DrawFn) -> tuple[int, int, int]:
        steps = draw(strategies.integers(1, 10_000))
        warmup = draw(strategies.integers(0, steps))
        return draw(strategies.integers(0, steps - 1)), steps, warmup

    def recall(known: Counterexample) -> tuple[int, int, int]:
        return int(known["step"]), int(known["steps"]), int(known["warmup"])

    return Search((schedules(),), violation, declared.examples, recall)


OF_THE_RULES: dict[str, Callable[[Any, Seams], Search[Any]]] = {
    "device_grammar": lambda declared, seams: device_grammar(declared, seams.parse_device),
    "schedule": lambda declared, seams: schedule(declared, seams.learning_rate),
}
"""Properties of the rules of `model`, by name: (declared, seams) -> what to search."""
