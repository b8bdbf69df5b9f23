"""torch's compiler, so that a forkserver imports it once for all runs that use it.

They are eager training runs, for the first optimizer that is built imports it, 800 modules in 0.8 s
or more, and forward runs whose blocks are compiled. The public function below does the same without
an optimizer. Nothing here touches CUDA or starts a thread.
"""

from __future__ import annotations

import torch


def _nothing() -> None:
    """Something to be left uncompiled."""


torch.compiler.disable(_nothing)  # type: ignore[no-untyped-call] # torch's own
