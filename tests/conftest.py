"""Fixtures for tests that go through pytest itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from project import Project

# `make test` runs in workers; the sessions that tests start are no workers of that one.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[name]

if TYPE_CHECKING:
    from training import Train


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(pytester, monkeypatch)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    import torch
    from training import Train

    torch.set_num_threads(1)
    return Train(tmp_path)
