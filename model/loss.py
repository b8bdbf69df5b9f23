"""The loss that training minimises."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits B T V against target tokens B T."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
