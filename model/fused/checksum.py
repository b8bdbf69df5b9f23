"""The parameters' checksum over the flat masters: the number of `census.checksum` in one pass."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from pytest_gates.model.census import CHECKSUM_BITS
from pytest_gates.model.fused import kernels
from pytest_gates.model.fused.launch import launch
from pytest_gates.model.fused.state import FusedState

ROWS = 8
"""Rows of the hidden width that one program sums."""


def row_weights(state: FusedState) -> Tensor:
    """What each row of the hidden width counts: its parameter's odd number, 0 for padding.

    Every parameter is a whole number of such rows. They are numbered in the model's own
    order, as in `census.checksum`.
    """
    width = state.architecture.hidden
    numbers = torch.zeros(state.size, dtype=torch.int16, device=state.masters.device)
    for index, (_, view) in enumerate(state.named(numbers)):
        view.fill_(2 * index + 1)
    return numbers.view(-1, width)[:, 0].to(torch.int32)


def checksum(state: FusedState, weights: Tensor) -> Tensor:
    """The checksum, an integer below 2^52, computed where the masters lie."""
    rows = len(weights)
    programs = triton.cdiv(rows, ROWS)
    partials = torch.empty(programs, dtype=torch.int64, device=weights.device)
    launch(
        kernels.checksum_rows, (programs,),
        state.masters.view(torch.int32), weights, partials, rows, state.architecture.hidden, ROWS,
        num_warps=4,
    )  # fmt: skip
    return torch.remainder(partials.sum(), 2**CHECKSUM_BITS)
