"""Fixtures for tests that go through pytest itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from project import Project

# An example may take as long as it takes: a busy machine is no counterexample.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# `make test` runs in workers, which are told a terminal's width; the sessions that tests start are
# no workers of that one, and have no terminal.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    os.environ.pop("COLUMNS", None)
    del os.environ[name]

if TYPE_CHECKING:
    from audited import Audit
    from programs import Program
    from training import Train


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(pytester, monkeypatch)


@pytest.fixture
def judged(project: Project) -> Project:
    """A contract that was judged twice: fail, then pass; the audit is clean."""
    from audited import judged_twice

    return judged_twice(project)


@pytest.fixture
def audit(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Audit:
    from audited import Audit

    return Audit(project, monkeypatch, capsys)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    import torch
    from training import Train

    torch.set_num_threads(1)
    return Train(tmp_path)


@pytest.fixture
def allowed(project: Project) -> Project:
    """A project that allows driver `command`."""
    from programs import ALLOWED

    project.pytester.makeini(ALLOWED)
    return project


@pytest.fixture
def program(allowed: Project) -> Program:
    from programs import Program

    return Program(allowed)


@pytest.fixture
def hour_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """`hour_passes(once)`: for who watches a run, an hour has passed as soon as that is true.

    So a time limit is over when the run has done what the test is about, and never before.
    """

    def passes(once: Callable[[], object]) -> None:
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (3600.0 if once() else 0.0))
        monkeypatch.setattr("pytest_gates.run.process.time", clock)

    return passes


@pytest.fixture
def orphans() -> Iterator[Callable[[], list[str]]]:
    """Living processes that this test began and that are not its own."""
    from programs import marked_processes

    os.environ["MARK_OF_A_TEST"] = mark = f"{os.getpid()}-{time.monotonic_ns()}"
    yield lambda: marked_processes(mark)
    del os.environ["MARK_OF_A_TEST"]
