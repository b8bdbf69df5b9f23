"""The vocabulary of telemetry, without torch: metrics, events, statuses, and the bytes of a line.

A run says of itself one JSON object a line, in `telemetry-<rank>.jsonl`. Each object has a `kind`:
`step`, `epoch`, `event`, `fact`, `slot`, `parameter` or `property`. Numbers that JSON cannot write
are strings: "NaN", "Infinity", "-Infinity"; every finite number round-trips bit for bit (shortest
repr).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

Scope = Literal["step", "epoch", "slot", "parameter"]


@dataclass(frozen=True)
class Metric:
    """A registered metric. The suffix of a name is its unit: `_ms`, `_mib`, `_pct`."""

    name: str
    unit: str
    scope: Scope
    meaning: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("step", "", "step", "index of the optimizer step, from 0"),
        Metric("train_loss", "nats", "step", "mean cross-entropy of the step's batch"),
        Metric("grad_norm", "", "step", "global gradient norm before clipping"),
        Metric("lr", "", "step", "learning rate that the step used"),
        Metric("tokens", "tokens", "step", "tokens read up to and with this step"),
        Metric("tokens_per_sec", "tokens/s", "step", "tokens of the step over its wall_ms"),
        Metric("gpu_util_pct", "%", "step", "utilisation of the device, as NVML gives it"),
        Metric("wall_ms", "ms", "step", "from the end of the step before to the end of this one"),
        Metric(
            "gpu_ms", "ms", "step", "from the first to the last kernel of the step, CUDA events"
        ),
        Metric("memory_mib", "MiB", "step", "held by the allocator (CUDA) or resident (CPU)"),
        Metric("reserved_mib", "MiB", "step", "reserved by the allocator (CUDA)"),
        Metric("data_hash", "", "step", "first 48 bits of the BLAKE2b hash of the step's tokens"),
        Metric(
            "param_hash", "", "step", "checksum of the parameters after the step (deterministic)"
        ),
        Metric("clipped_norm", "", "step", "gradient norm after clipping (steps of `statistics`)"),
        Metric("gap_ms", "ms", "step", "the device waits for the host before the step"),
        Metric("data_ms", "ms", "step", "the batch is brought to the device"),
        Metric("forward_ms", "ms", "step", "forward pass and loss"),
        Metric("backward_ms", "ms", "step", "backward pass"),
        Metric("clip_ms", "ms", "step", "gradient norm and clipping"),
        Metric("optimizer_ms", "ms", "step", "optimizer's update"),
        Metric("comm_ms", "ms", "step", "gradients were on their way between ranks (`ddp`)"),
        Metric("comm_share_pct", "%", "step", "comm_ms over wall_ms (`ddp`)"),
        Metric("ttft_ms", "ms", "step", "time to first token: prompt fed to first token known"),
        Metric("decode_ms", "ms", "step", "mean time of a token after the first"),
        Metric("decode_tokens_per_sec", "tokens/s", "step", "tokens after the first over time"),
        Metric("epoch", "", "epoch", "index of the validation, from 0"),
        Metric("val_loss", "nats", "epoch", "mean cross-entropy of the held-out split"),
        Metric("val_tokens", "tokens", "epoch", "tokens of the held-out split that were read"),
        Metric("epoch_loss", "nats", "epoch", "mean training loss of the epoch's last 100 steps"),
        Metric("train_ppl", "", "epoch", "exp of epoch_loss"),
        Metric("val_ppl", "", "epoch", "exp of val_loss"),
        Metric("tokens_seen", "tokens", "epoch", "training tokens read since the run began"),
        Metric("epoch_s", "s", "epoch", "time of the epoch, its validation included"),
        Metric("grad_norm_max", "", "epoch", "largest gradient norm of the epoch's steps"),
        Metric("gradient_norm", "", "parameter", "norm of the parameter's gradient, clipped"),
        Metric("gradient_zeros_pct", "%", "parameter", "share of exact zeros in its gradient"),
        Metric("weight_mean", "", "parameter", "mean of the parameter before the update"),
        Metric("weight_std", "", "parameter", "its standard deviation before the update"),
        Metric("update_norm", "", "parameter", "norm of what the step added to the parameter"),
        Metric("layer", "", "slot", "index of the block, from 0; -1 for what lies outside blocks"),
        Metric("mean", "", "slot", "mean of the slot's activations"),
        Metric("std", "", "slot", "standard deviation of the slot's activations"),
        Metric("rms", "", "slot", "root mean square of the slot's activations"),
        Metric("abs_max", "", "slot", "largest magnitude in the slot"),
        Metric("zeros_pct", "%", "slot", "share of exact zeros in the slot"),
        Metric("kurtosis", "", "slot", "Pearson's kurtosis of the slot, 3 for a normal one"),
        Metric("rel_l2", "", "slot", "relative L2 distance from the float64 reference"),
        Metric("own_rel_l2", "", "slot", "the same, the slot computed from the reference's inputs"),
        Metric("grad_ratio", "", "slot", "norm of the gradient over that of the reference"),
        Metric("grad_cosine", "", "slot", "cosine between the gradient and the reference's"),
        Metric("non_finite", "", "slot", "count of NaN and infinite activations in the slot"),
    )
}
"""Every metric a check may name; an unregistered one is an error when a contract is loaded."""

EVENTS: dict[str, str] = {
    "run_started": "the device is resolved and the run's folder exists",
    "auto_chose_cpu": "device `auto` found no CUDA device and chose the CPU (a warning, once)",
    "memory_held": "a told size is allocated, for the witness to see",
    "model_built": "the model's parameters exist",
    "optimizer_built": "the optimizer exists",
    "training_started": "the first step is about to be launched",
    "first_step_done": "the first step has ended on the device",
    "data_cycled": "the training data wrapped around (once)",
    "non_finite": "a loss or gradient norm was not finite (once)",
    "held": "the run stands before this step until the process outside lets it go on",
    "data_ended": "every window was read and the run was told to halt there",
    "target_reached": "the validation loss is at its target (once)",
    "stopped_early": "no better validation loss for as many epochs as are borne",
    "diverged": "a validation loss left its bound",
    "checkpoint_saved": "an epoch's checkpoint is on disk in full",
    "checkpoint_loaded": "the state of another run was read",
    "stimulus_applied": "the declared stimulus took effect",
    "rank_ended": "one rank of several ended other than completed; its status says how",
    "compiled": "torch.compile made a graph during this step, whose times it contaminates",
    "run_finished": "the run came to its own end",
}
"""Every event by name."""

STATUSES: dict[str, int | None] = {
    "COMPLETED": 0,
    "ERROR": 1,
    "CONFIG_REFUSED": 2,
    "DEVICE_UNAVAILABLE": 3,
    "DIVERGENCE": 4,
    "NUMERICAL_INSTABILITY": 5,
    "STREAM_EXHAUSTED": 6,
    "OUT_OF_MEMORY": 7,
    "IO_ERROR": 8,
    "ABORTED": None,
    "KILLED": None,
    "TIMEOUT": None,
    "INTERRUPTED": None,
}
"""Exit statuses and the process's exit code for each; None: told by the outside or a recording."""

STATUS_MEANINGS: dict[str, str] = {
    "COMPLETED": "came to its own end",
    "ERROR": "an error of the program; the log names it",
    "CONFIG_REFUSED": "the run's settings cannot be carried out",
    "DEVICE_UNAVAILABLE": "the device asked for is not there; nothing was built",
    "DIVERGENCE": "the validation loss left its bound",
    "NUMERICAL_INSTABILITY": "a loss or gradient norm was not finite",
    "STREAM_EXHAUSTED": "the data ended and the run was told to halt there",
    "OUT_OF_MEMORY": "the device's or the host's memory ran out",
    "IO_ERROR": "a file could not be written or read",
    "ABORTED": "ended early by its own guard (recorded runs)",
    "KILLED": "ended by a signal from outside",
    "TIMEOUT": "ended by the worker when its time was up",
    "INTERRUPTED": "ended by Ctrl-C",
}

FINISHED_WINDOWS = frozenset({"COMPLETED", "ABORTED", "DIVERGENCE", "STREAM_EXHAUSTED"})
"""Statuses whose finished steps are still admissible evidence; the status is always shown."""

REQUIRED_STEP_FIELDS = ("step", "train_loss", "grad_norm", "lr", "tokens", "tokens_per_sec",
                        "gpu_util_pct", "wall_ms", "gpu_ms", "memory_mib")  # fmt: skip
"""Fields of a step line; a value that a device cannot give is null."""


class RunRefusedError(Exception):
    """The run ends before or during its work with a status of the table above."""

    def __init__(self, status: str, reason: str) -> None:
        assert STATUSES.get(status), f"{status} is no status a run can end itself with"
        super().__init__(reason)
        self.status = status
        self.reason = reason


def encode_number(value: float) -> float | str:
    """A JSON value for any float; the non-finite ones become their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def decode_number(value: object) -> float | None:
    """The float that `encode_number` wrote, or None for null; anything else is a ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no number")  # noqa: TRY004 - one error for bad bytes
    if isinstance(value, str):
        if value not in _NON_FINITE:
            raise ValueError(f"{value!r} is no number")
        return _NON_FINITE[value]
    return float(value)


def encode_line(record: dict[str, Any]) -> str:
    """One telemetry line with its newline."""
    safe = {k: encode_number(v) if isinstance(v, float) else v for k, v in record.items()}
    return _ENCODER.encode(safe) + "\n"


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
