"""How sound models pass a slot's distance on: the figures behind `pytest_gates.checks.run_parity`.

    python -m benchmarks.calibrate_run_parity

Models of several depths, scales and lengths, sound by construction, run freely beside the float64
oracle, in the number formats of `calibrate_parity`. For each slot: the largest share of its
inputs' distance that is left once its own rounding is taken off. For each format: how many times
the rounding of its coarsest slot the largest distance is.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from benchmarks.calibrate_parity import CPU, GAINS, kinds
from pytest_gates.checks.run_parity import BEFORE, INPUTS
from pytest_gates.checks.tolerances import OWN_ERROR
from pytest_gates.model.config import Architecture
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.parity import Distances, Reference
from pytest_gates.model.prompt import Input
from pytest_gates.model.transformer import initialised

SHAPES = (
    {"hidden": 64, "layers": 24, "heads": 4, "kv_heads": 2, "intermediate": 96, "vocab": 300},
    {"hidden": 128, "layers": 12, "heads": 4, "kv_heads": 1, "intermediate": 352, "vocab": 256},
    {"hidden": 256, "layers": 6, "heads": 8, "kv_heads": 8, "intermediate": 512, "vocab": 512,
     "rope_theta": 1e6, "attention_bias": True},
)  # fmt: skip
LENGTHS = (7, 64)


def main() -> None:
    torch.set_num_threads(1)
    passed_on: dict[str, float] = defaultdict(float)
    added_up: dict[str, float] = defaultdict(float)
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
                expected = reference.slots()
                for name, dtype, model in kinds(clean):
                    look = Distances(expected)
                    ForwardPath(model, CPU, dtype)(tokens, look)
                    found = look.read()
                    coarsest = max(OWN_ERROR[name].values())
                    added_up[name] = max(added_up[name], *(d / coarsest for d in found.values()))
                    for (layer, slot), distance in found.items():
                        own = max(OWN_ERROR[name][slot], OWN_ERROR["float32"][slot])
                        below = layer - 1 if layer >= 0 else shape["layers"] - 1
                        inputs = [
                            found.get((below, one.removeprefix(BEFORE)), 0.0)
                            if one.startswith(BEFORE)
                            else found.get((layer, one), 0.0)
                            for one in INPUTS[slot]
                        ]
                        if distance > own and max(inputs) > 0:
                            share = (distance - own) / max(inputs)
                            passed_on[slot] = max(passed_on[slot], share)
    for slot in INPUTS:
        print(f"{slot:14} passes on {passed_on[slot]:.2f} of its inputs' distance")
    for name, times in added_up.items():
        print(f"{name:14} adds up to {times:.1f} times the rounding of its coarsest slot")


if __name__ == "__main__":
    main()
