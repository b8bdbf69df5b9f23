"""The model a run declares, built on its device, and what every driver says of it."""

from __future__ import annotations

import torch

from pytest_gates.model.census import parameter_sha256
from pytest_gates.model.config import ForwardRun, PretrainRun
from pytest_gates.model.seams import Seams
from pytest_gates.model.transformer import Transformer, initialised
from pytest_gates.model.writer import TelemetryWriter


def built(
    run: PretrainRun | ForwardRun, device: torch.device, writer: TelemetryWriter, seams: Seams
) -> Transformer:
    """Build the model from the run's seed, and say its facts and the event `model_built`.

    Facts: `parameters` (each storage counted once), `tied` (whether the output projection is the
    embedding's own storage), `parameter_dtype`, `compute_dtype`, `param_sha256_initial`.
    """
    model = initialised(run.architecture, device, seams.seed(run.seed))
    seams.edit_model(model)
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    writer.fact("parameters", count)
    writer.fact(
        "tied", model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    )
    writer.fact("parameter_dtype", ",".join(sorted({dtype_name(p.dtype) for p in parameters})))
    writer.fact("compute_dtype", dtype_name(compute_dtype(run.dtype, device)))
    writer.fact("param_sha256_initial", parameter_sha256(model))
    writer.event("model_built", parameters=count)
    return model


def compute_dtype(asked: str, device: torch.device) -> torch.dtype:
    """Type of the matmuls: `auto` is bf16 on CUDA and fp32 on the CPU; masters are always fp32."""
    bf16 = asked == "bf16" or (asked == "auto" and device.type == "cuda")
    return torch.bfloat16 if bf16 else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """The type's own name: `float32`, `bfloat16`."""
    return str(dtype).removeprefix("torch.")
