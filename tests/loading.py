"""Contracts of tests: text with one run in it, and what the loader says of it."""

from __future__ import annotations

from project import dedented

from pytest_gates.contract.load import contract_from
from pytest_gates.contract.models import Contract, Gate
from pytest_gates.contract.runs import Caps
from pytest_gates.errors import ContractError

RUN = """\
runs:
  base:
    driver: pretrain
    device: cuda:0
    model: llama-1m
    data: {corpus: python-stdlib}
    seq_len: 64
    batch_size: 2
    steps: 100
"""
"""A run of nine lines; what is added after it begins on line 10."""


def loaded(text: str, runs: str = RUN, caps: Caps | None = None) -> Contract:
    """The contract of a text behind a run."""
    return contract_from(runs + dedented(text), "c.yaml", caps or Caps())


def refused(text: str, runs: str = RUN, caps: Caps | None = None) -> list[str]:
    """What is wrong with it, a line each, without the file's name."""
    try:
        loaded(text, runs, caps)
    except ContractError as error:
        lines = str(error).splitlines()
        assert all(line.startswith("c.yaml:") for line in lines), lines
        return [line.removeprefix("c.yaml:") for line in lines]
    return []


def gate(check: str, **keys: str) -> str:
    """A gate over the run, with one check in flow style on line 13 plus the further keys."""
    more = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    return f"gates:\n  - id: G\n    run: base\n{more}    checks:\n      - {check}\n"


def gates_of(text: str, runs: str = RUN) -> dict[str, Gate]:
    """The gates by id."""
    return {one.id: one for one in loaded(text, runs).gates}
