"""What the eager step imports besides, so that a forkserver does it once for all such runs.

The first optimizer that is built imports torch's compiler, 800 modules in 0.8 s or more; the public
function below does the same without an optimizer. Nothing here touches CUDA or starts a thread.
"""

from __future__ import annotations

import torch


def _nothing() -> None:
    """Something to be left uncompiled."""


torch.compiler.disable(_nothing)  # type: ignore[no-untyped-call] # torch's own
