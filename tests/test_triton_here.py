"""Whether kernels of our own can be compiled here is said before one is asked for."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

import pytest

from pytest_gates.model.triton_here import COMPILERS, why_no_triton


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host with Triton and a compiler, as far as the question looks."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == COMPILERS[-1] else None)
    monkeypatch.delenv("CC", raising=False)
    why_no_triton.cache_clear()
    yield
    why_no_triton.cache_clear()


def test_a_host_that_has_both() -> None:
    assert why_no_triton() is None


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_no_triton() == "triton is not there"


def test_a_compiler_is_missing_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert why_no_triton() == "triton finds no C compiler"
    monkeypatch.setenv("CC", "my-cc")
    why_no_triton.cache_clear()
    assert why_no_triton() is None
