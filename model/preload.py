"""What every run of a model imports sooner or later, so that a forkserver does it once for all.

Nothing here touches CUDA or starts a thread.
"""

from __future__ import annotations

from pytest_gates.model import __main__, forward, probe, sabotage, trainer
from pytest_gates.model.parallel import join

__all__ = ["__main__", "forward", "join", "probe", "sabotage", "trainer"]
