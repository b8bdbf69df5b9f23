"""The model a run declares, built on its device, and what every driver says of it."""

from __future__ import annotations

import torch

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.census import parameter_sha256
from pytest_gates.model.config import ForwardRun, PretrainRun
from pytest_gates.model.seams import Seams
from pytest_gates.model.transformer import Transformer, initialised
from pytest_gates.model.weights import Weights, loaded
from pytest_gates.model.writer import TelemetryWriter

_PARAMETER_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def built(
    run: PretrainRun, device: torch.device, writer: TelemetryWriter, seams: Seams
) -> Transformer:
    """Build a training run's model from its seed, and say of it what `say_model` says."""
    model = initialised(run.architecture, device, seams.seed(run.seed))
    seams.edit_model(model)
    say_model(model, run, device, writer)
    return model


def assembled(
    run: ForwardRun,
    weights: Weights | None,
    device: torch.device,
    writer: TelemetryWriter,
    seams: Seams,
) -> Transformer:
    """A forward run's model, from its weights or its seed; says also how weights are stored.

    Raises:
        RunRefusedError: CONFIG_REFUSED, a tensor cannot be read.
    """
    if weights is None:
        model = from_seed(run, device, seams.seed(run.seed))
    else:
        model = loaded(weights, device, _PARAMETER_DTYPES[run.parameter_dtype])
        writer.fact("weight_types", ",".join(sorted(weights.types)))
    seams.edit_model(model)
    say_model(model, run, device, writer)
    return model.eval()


def from_seed(run: ForwardRun, device: torch.device, seed: int) -> Transformer:
    """The model of a run that declares an architecture, as a seed draws it."""
    assert run.architecture is not None
    return initialised(run.architecture, device, seed, _PARAMETER_DTYPES[run.parameter_dtype])


def say_model(
    model: Transformer,
    run: PretrainRun | ForwardRun,
    device: torch.device,
    writer: TelemetryWriter,
) -> None:
    """Say a model's facts and the event `model_built`.

    Facts: `parameters` (each storage counted once), `tied` (whether the output projection is the
    embedding's own storage), `parameter_dtype`, `compute_dtype`, `param_sha256_initial`,
    `parameters_if_tied` and `parameters_if_untied` by arithmetic, `head_dim`, `rope_theta` (as the
    model rotates), `vocab`, and `shapes_as_declared` (whether every tensor has the name and shape
    that the architecture gives it).
    """
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    writer.fact("parameters", count)
    writer.fact(
        "tied", model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    )
    writer.fact("parameter_dtype", ",".join(sorted({dtype_name(p.dtype) for p in parameters})))
    writer.fact("compute_dtype", dtype_name(compute_dtype(run.matmul_dtype, device)))
    writer.fact("param_sha256_initial", parameter_sha256(model))
    say_architecture(model, model.architecture, writer)
    writer.event("model_built", parameters=count)


def say_architecture(model: Transformer, shape: Architecture, writer: TelemetryWriter) -> None:
    """Say what was built against what the architecture gives by arithmetic."""
    there = {name: tuple(p.shape) for name, p in model.named_parameters()}
    writer.fact("head_dim", model.get_submodule("model.layers.0.self_attn").head_dim)
    writer.fact("rope_theta", model.model.rope_theta)
    writer.fact("vocab", model.model.embed_tokens.weight.shape[0])
    for tied in (True, False):
        count = shape.model_copy(update={"tied": tied}).parameters
        writer.fact(f"parameters_if_{'tied' if tied else 'untied'}", count)
    writer.fact("shapes_as_declared", there == shape.shapes())


def compute_dtype(asked: str, device: torch.device) -> torch.dtype:
    """Type of the matmuls: `auto` is bf16 on CUDA and fp32 on the CPU; masters are always fp32."""
    bf16 = asked == "bf16" or (asked == "auto" and device.type == "cuda")
    return torch.bfloat16 if bf16 else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """The type's own name: `float32`, `bfloat16`."""
    return str(dtype).removeprefix("torch.")
