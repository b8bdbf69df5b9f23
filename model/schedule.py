"""The learning rate in closed form, without torch, so that evidence can be held against it."""

from __future__ import annotations

import math

from pytest_gates.model.training import Optimizer


def learning_rate(step: int, steps: int, optimizer: Optimizer) -> float:
    """Learning rate of `step` (from 0) in a run of `steps`.

    Linear warm-up that reaches the peak in its last step, then a cosine from the peak down to
    `min_lr_ratio` of it, which it would reach in the step after the last (arXiv:1608.03983, eq. 5
    without restarts; the same form as llm.c).
    """
    assert 0 <= step < steps
    peak, warmup = float(optimizer.lr), optimizer.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    floor = peak * optimizer.min_lr_ratio
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
