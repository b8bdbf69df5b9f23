"""Commands of `pytest-gates` in the order of `--help`. Heavy imports wait for their use."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pytest_gates.commands import (
    audit,
    completion,
    diff,
    env,
    history,
    mutate,
    new,
    report,
    schema,
    sync,
    trace,
    validate,
)

Command = Callable[[argparse.Namespace], int]
"""Carries a command out; returns 0 if all is well and 1 if something was found."""

COMMANDS = (
    new,
    validate,
    trace,
    mutate,
    audit,
    history,
    diff,
    sync,
    report,
    env,
    schema,
    completion,
)
