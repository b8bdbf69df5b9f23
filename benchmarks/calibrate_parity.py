"""What rounding alone does to each slot: the table in `pytest_gates/checks/tolerances.py`.

    python -m benchmarks.calibrate_parity

Random models of several shapes and scales, sound by construction, are held against the float64
oracle on the CPU. A slot's tolerance is MARGIN times the largest own error that was seen, rounded
up to two digits; a gradient's is MARGIN times the largest relative L2 distance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pytest_gates.model.config import Architecture
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.parity import Forced, Reference, compare_gradients
from pytest_gates.model.prompt import Input
from pytest_gates.model.slots import SLOTS
from pytest_gates.model.transformer import Transformer, initialised

MARGIN = 4
CPU = torch.device("cpu")
TABLE = Path(__file__).parents[1] / "pytest_gates" / "checks" / "tolerances.py"
SHAPES = (
    {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 96, "vocab": 300},
    {"hidden": 128, "layers": 4, "heads": 4, "kv_heads": 1, "intermediate": 352, "vocab": 256},
    {"hidden": 256, "layers": 3, "heads": 8, "kv_heads": 8, "intermediate": 512, "vocab": 512,
     "rope_theta": 1e6, "attention_bias": True},
)  # fmt: skip
GAINS = (1.0, 3.0)
LENGTHS = (7, 256)


def q8_0(weight: Tensor) -> Tensor:
    """Blocks of 32 share a scale in half precision (ggml-org/ggml, block_q8_0)."""
    blocks = weight.flatten().unflatten(0, (-1, 32))
    scale = (blocks.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    return ((blocks / scale).round() * scale.half().float()).view_as(weight)


def kinds(clean: Transformer) -> Iterator[tuple[str, torch.dtype, Transformer]]:
    yield "float32", torch.float32, clean
    yield "bfloat16", torch.bfloat16, clean
    pure = Transformer(clean.architecture)
    pure.load_state_dict(clean.state_dict())
    yield "bfloat16", torch.bfloat16, pure.bfloat16()
    for name in ("F16", "BF16", "Q8_0"):
        stored = Transformer(clean.architecture)
        stored.load_state_dict(clean.state_dict())
        with torch.no_grad():
            for parameter in stored.parameters():
                if name == "F16":
                    parameter.copy_(parameter.half().float())
                elif name == "BF16":
                    parameter.copy_(parameter.bfloat16().float())
                elif parameter.dim() > 1:
                    parameter.copy_(q8_0(parameter))
        yield name, torch.float32, stored


def rounded_up(value: float) -> float:
    digits = 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(value * 10**digits) / 10**digits:.2g}")


def main() -> None:
    torch.set_num_threads(1)
    own: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    gradient: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for number, shape in enumerate(SHAPES):
        for gain in GAINS:
            clean = initialised(Architecture(**shape), CPU, number)
            with torch.no_grad():
                for parameter in clean.parameters():
                    parameter.mul_(gain)
            for length in LENGTHS:
                tokens = [i * 37 % 250 for i in range(length)]
                given = Input.of(tokens)
                reference = Reference(clean.architecture, clean.get_parameter, given, CPU)
                slots, gradients = reference.slots(), reference.gradients()
                for name, dtype, model in kinds(clean):
                    path = ForwardPath(model, CPU, dtype)
                    forced = Forced(slots)
                    path(tokens, forced)
                    for (_, slot), error in forced.read().items():
                        own[name][slot] = max(own[name][slot], error)
                    # Scaled up threefold, a deep model is chaotic backwards: no scale to go by.
                    for one in (
                        [] if gain != 1 else compare_gradients(path.gradients(given), gradients)
                    ):
                        kind = one.name.split(".")[-2]
                        gradient[name][kind] = max(gradient[name][kind], one.rel_l2)
    lines = [
        '"""Tolerances of parity. Generated: python -m benchmarks.calibrate_parity.',
        "",
        f"{MARGIN} times the largest error that rounding alone made, on the CPU, over sound models",
        f"of {len(SHAPES)} shapes, {len(GAINS)} scales and {len(LENGTHS)} lengths (gradients at",
        f"the first scale alone), in torch {torch.__version__.split('+')[0]}.",
        "Rows: the type of the matmuls, or how one side's weights are stored.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "OWN_ERROR: dict[str, dict[str, float]] = {",
    ]
    for name, slots_of in own.items():
        lines.append(f'    "{name}": {{')
        for slot in SLOTS:
            # A slot that rounding did not touch keeps the format's own unit.
            worst = slots_of[slot] or 2.0**-24
            lines.append(f'        "{slot}": {rounded_up(MARGIN * worst)!r},')
        lines.append("    },")
    lines += ["}", '"""Relative L2 of a slot computed from the reference\'s inputs."""', ""]
    lines.append("GRADIENT: dict[str, dict[str, float]] = {")
    for name, kinds_of in gradient.items():
        lines.append(f'    "{name}": {{')
        lines += [f'        "{kind}": {rounded_up(MARGIN * w)!r},' for kind, w in kinds_of.items()]
        lines.append("    },")
    lines += ["}", '"""Relative L2 of a parameter\'s gradient, by the module that holds it."""', ""]
    TABLE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
