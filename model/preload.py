"""What every run of a model imports sooner or later, so that a forkserver does it once for all.

The first optimizer that is built imports torch's compiler, 800 modules in 0.8 s; the public
function below does the same without an optimizer. Nothing here touches CUDA or starts a thread.
"""

from __future__ import annotations

import torch

from pytest_gates.model import __main__, forward, probe, sabotage, trainer
from pytest_gates.model.parallel import join

__all__ = ["__main__", "forward", "join", "probe", "sabotage", "trainer"]


def _nothing() -> None:
    """Something to be left uncompiled."""


torch.compiler.disable(_nothing)  # type: ignore[no-untyped-call] # torch's own
