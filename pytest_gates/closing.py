"""The end of a session: verdicts are written back, reports published, the summary told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from pytest_gates.audit import Reader
from pytest_gates.contract.load import contract_from
from pytest_gates.contract.models import Contract
from pytest_gates.ledger import Ledger
from pytest_gates.recording import saved_text, write_contracts
from pytest_gates.report.github import workflow_commands
from pytest_gates.report.publish import Publisher
from pytest_gates.report.terminal import write_summary
from pytest_gates.results import Result, armed_by_session
from pytest_gates.settings import Settings

if TYPE_CHECKING:
    import pytest


class Closing:
    """Keeps contracts as they were judged, and brings them up to the ledger at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._contracts: dict[str, Contract] = {}
        self._told: Iterable[str] = ()

    def keep(self, contract: Contract) -> None:
        """Keep a contract's text for the session's end, whichever process reaches that."""
        if contract.sha in self._contracts:
            return
        self._contracts[contract.sha] = contract
        path = saved_text(self._settings, contract.sha)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contract.text, encoding="utf-8", newline="")

    def _as_judged(self, result: Result) -> Contract | None:
        """The contract of a result, whichever process judged it; None if none did."""
        path = saved_text(self._settings, result.seen)
        if result.seen not in self._contracts and path.exists():
            text = path.read_bytes().decode()
            self._contracts[result.seen] = contract_from(text, result.contract, self._settings.caps)
        return self._contracts.get(result.seen)

    def finish(self, results: Sequence[Result], ledger: Ledger, read: Reader) -> None:
        """Write verdicts back, once a contract, and publish what was asked for."""
        told = write_contracts(self._settings, ledger, results, self._as_judged)
        published = Publisher(
            self._settings, armed_by_session(results), self._as_judged, ledger, read
        )
        # What would be written is rendered only as far as it is shown; what is written, now.
        written = told if self._settings.record == "never" else list(told)
        self._told = chain(written, published.publish())

    def summarise(self, results: Sequence[Result], reporter: pytest.TerminalReporter) -> None:
        """The end of the terminal's output."""
        armed = sorted(armed_by_session(results), key=lambda one: (one.contract, one.line))
        write_summary(armed, self._told, reporter)
        for line in workflow_commands(results, self._settings.root):
            reporter.write_line(line)
