"""Contracts as pytest nodes: a file, and an item for each gate and falsifier."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_gates.contract.load import load_contract
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.errors import ContractError, GatesError
from pytest_gates.garbage import uncollected
from pytest_gates.plugin import SESSION, SESSION_HOOKS, SessionHooks
from pytest_gates.results import Result, Status
from pytest_gates.session import GatesSession


class GateRedError(Exception):
    """An item is red; its text is the whole report."""


def gates_session(config: pytest.Config) -> GatesSession:
    """The session's one object that runs, judges and records; made on first use."""
    if SESSION not in config.stash:
        hooks = config.pluginmanager.get_plugin(SESSION_HOOKS)
        assert isinstance(hooks, SessionHooks)
        config.stash[SESSION] = GatesSession(hooks.settings, hooks.forkserver)
    return config.stash[SESSION]


def plan(session: pytest.Session) -> None:
    """Tell our session which of its items will run, in order."""
    items = [item.declared for item in session.items if isinstance(item, _ContractItem)]
    if items:
        gates_session(session.config).plan(items)


class ContractFile(pytest.File):
    """A contract file."""

    shown: str | None = None
    """How pytest names it in reports; known once an item was asked for it."""

    def collect(self) -> Iterable[GateItem | FalsifierItem]:
        """Load the contract; one item a gate and a falsifier, in file order."""
        session = gates_session(self.config)
        try:
            with uncollected():
                contract = load_contract(
                    self.path, session.settings.shown(self.path), session.settings.caps
                )
                session.declared.add(contract)
                gc.freeze()  # it stays to the end: no collection need look through it
        except ContractError as error:
            raise self.CollectError(str(error)) from None
        for item in contract.items:
            kind = GateItem if isinstance(item, Gate) else FalsifierItem
            yield kind.from_parent(self, name=item.id, contract=contract, declared=item)


class _ContractItem(pytest.Item):
    gates_result: Result | None = None

    def __init__(self, *, contract: Contract, declared: Gate | Falsifier, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.contract = contract
        self.declared = declared

    def runtest(self) -> None:
        """Run, judge and record; raise if the item is red, skip if it is blocked."""
        session = gates_session(self.config)
        try:
            result = self._result(session)
        except (GatesError, OSError) as error:
            result = session.failed(self.contract, self.declared, error)
        self.gates_result = result
        self.user_properties += _properties(result)
        if result.red:
            raise GateRedError(result.report)
        if result.waived:
            pytest.xfail(result.waiver)
        if result.status is Status.BLOCKED:
            pytest.skip(result.reason)

    def _result(self, session: GatesSession) -> Result:
        raise NotImplementedError

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report of a red item; only our own mistakes show a traceback."""
        if isinstance(excinfo.value, GateRedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the item stands: the contract and its line."""
        return self.path, self.declared.place.line - 1, self.name

    @cached_property
    def location(self) -> tuple[str, int | None, str]:
        """The same as pytest says it; all items of a file begin alike."""
        assert isinstance(self.parent, ContractFile)
        if self.parent.shown is None:
            self.parent.shown = super().location[0]
        return self.parent.shown, self.declared.place.line - 1, self.name

    def __repr__(self) -> str:
        intention = gates_session(self.config).intention(self.contract, self.declared)
        return f"<{type(self).__name__} {self.name}: {intention}>"


class GateItem(_ContractItem):
    """A gate."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(self.declared, Gate) and self.declared.ship_blocking:
            self.add_marker("ship_blocking")

    def _result(self, session: GatesSession) -> Result:
        assert isinstance(self.declared, Gate)
        return session.verify(self.contract, self.declared)


class FalsifierItem(_ContractItem):
    """A falsifier."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_marker("falsifier")

    def _result(self, session: GatesSession) -> Result:
        assert isinstance(self.declared, Falsifier)
        return session.falsify(self.contract, self.declared)


def _properties(result: Result) -> list[tuple[str, object]]:
    named = {
        "verdict": str(result.status).lower(),
        "mode": str(result.mode),
        "prior": result.prior,
        "figure": result.figure,
        "limit": result.limit,
        "headroom_pct": result.headroom_pct,
        "record": result.record,
        "waiver": result.waiver,
        "suspect": "; ".join(result.suspect),
    }
    return [(name, value) for name, value in named.items() if value not in (None, "")]
