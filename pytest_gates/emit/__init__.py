"""For the team's own program: one import and one line, and it tells what our own runs tell.

    from pytest_gates.emit import training                    # a plain loop
    from pytest_gates.emit.transformers import GatesCallback  # transformers.Trainer
    from pytest_gates.emit.lightning import GatesCallback     # Lightning

Imported by that program alone, never by the rest of pytest-gates. Outside of a run of driver
`command` nothing is written, so the line can stay in the program for good.
"""

from pytest_gates.emit.emitter import Emitter
from pytest_gates.emit.loop import training

__all__ = ["Emitter", "training"]
