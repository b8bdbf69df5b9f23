"""Contracts as they were or are: of a git revision, a folder or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_gates.contract.load import contract_from, load_contract
from pytest_gates.contract.models import Contract
from pytest_gates.contract.runs import Caps
from pytest_gates.repository import Repository

SUFFIXES = (".yaml", ".yml")


def contracts_at(root: Path, revision: str, paths: Sequence[Path]) -> tuple[Contract, ...]:
    """The contracts beneath some paths as they were in a revision.

    Raises:
        GatesError: there is no such revision; or, a ContractError, one of them cannot be loaded.
    """
    repository = Repository(root)
    commit = repository.resolve(revision)
    names = [
        name
        for path in paths
        for name in repository.files(commit, _relative(root, path))
        if name.endswith(SUFFIXES)
    ]
    return tuple(
        contract_from(repository.text(commit, name), f"{revision}:{name}", Caps())
        for name in dict.fromkeys(names)
    )


def contracts_of(root: Path, files: Sequence[Path]) -> tuple[Contract, ...]:
    """The contracts of some files as they are.

    Raises:
        ContractError: one of them cannot be loaded.
    """
    return tuple(load_contract(path, _relative(root, path), Caps()) for path in files)


def _relative(root: Path, path: Path) -> str:
    full = path.resolve()
    return full.relative_to(root).as_posix() or "." if full.is_relative_to(root) else str(full)
