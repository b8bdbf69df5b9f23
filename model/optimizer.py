"""AdamW as a run declares it, in a form that a whole step of it can be captured in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_gates.model.training import Optimizer


def build_optimizer(model: nn.Module, settings: Optimizer, lr: Tensor) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with weight decay on matrices only, never on norms.

    Args:
        model: its parameters, each storage once, are what is optimised.
        settings: betas, eps and weight decay.
        lr: a scalar tensor on the parameters' device; the schedule writes into it, so that a
            captured step sees the new value.
    """
    parameters = list(model.parameters())
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],  # noqa: PLR2004 - a matrix
            "weight_decay": float(settings.weight_decay),
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},  # noqa: PLR2004
    ]
    return torch.optim.AdamW(
        groups,
        lr=lr,
        betas=(settings.beta1, settings.beta2),
        eps=float(settings.eps),
        fused=True,
        capturable=lr.is_cuda,
    )
