"""The plain reference over many windows: the same as over each, however many go together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_gates.model import reference
from pytest_gates.model.config import Architecture
from pytest_gates.model.reference import reference_logits, reference_loss
from pytest_gates.model.transformer import initialised

SHAPE = Architecture(hidden=24, layers=2, heads=6, kv_heads=2, intermediate=40, vocab=50)


@pytest.mark.parametrize("at_once", [1, 8, 20, 4096])
def test_windows_that_go_together_do_not_see_each_other(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Five windows of 8 tokens: one by one, the same, by two with one left over, all."""
    monkeypatch.setattr(reference, "_AT_ONCE", at_once)
    weights = dict(initialised(SHAPE, torch.device("cpu"), 0).named_parameters())
    windows = np.random.default_rng(0).integers(50, size=(5, 9))
    chosen = []
    for window in torch.from_numpy(windows):
        logits = reference_logits(SHAPE, weights, window[:-1])
        chosen += [
            row.log_softmax(0)[target] for row, target in zip(logits, window[1:], strict=True)
        ]
    expected = -torch.stack(chosen).mean()
    assert reference_loss(SHAPE, weights, windows) == pytest.approx(float(expected), rel=1e-6)
