"""What a session leaves for others beside its verdicts: HTML, GitHub's summary, an attestation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_gates import __version__
from pytest_gates.clock import utc_now
from pytest_gates.contract.load import load_contract
from pytest_gates.contract.models import Contract
from pytest_gates.errors import ContractError, GatesError
from pytest_gates.evidence_store import RUNS
from pytest_gates.ledger import Ledger
from pytest_gates.manifest import MANIFEST
from pytest_gates.report import attest, github
from pytest_gates.report.facts import Reader
from pytest_gates.report.html import render
from pytest_gates.report.view import Sources, page
from pytest_gates.results import Mode, Result
from pytest_gates.settings import Settings


@dataclass(frozen=True)
class Publisher:
    """Writes what was asked for, of results that are final."""

    settings: Settings
    results: Sequence[Result]
    judged: Callable[[Result], Contract | None]
    """The contract of a result as it was judged, where that is known."""
    ledger: Ledger
    read: Reader

    def publish(self) -> Iterator[str]:
        """Write all of it; one line for each file, also for one that could not be written."""
        if self.settings.html is not None:
            yield _told(self.settings.html, self.html)
        if self.settings.attest is not None:
            yield _told(self.settings.attest, self.attestation)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            github.append_summary(Path(summary), self.results)

    def html(self) -> str:
        """The HTML report."""
        sources = Sources(self._contracts, self.ledger, self.read, self._manifest)
        return render(
            page(
                self._placed,
                sources,
                written=utc_now(),
                program=__version__,
                source=source_of(self.results),
            )
        )

    def attestation(self) -> str:
        """The in-toto statement."""
        evidence = {where: self.read(where).id for result in self._placed
                    for where in result.evidence}  # fmt: skip
        statement = attest.statement(self._placed, self.settings.root, evidence)
        return json.dumps(statement, indent=2, ensure_ascii=False) + "\n"

    @cached_property
    def _placed(self) -> tuple[Result, ...]:
        """The results, their evidence where it lies for good if it was recorded."""
        return tuple(
            replace(one, evidence=tuple(map(self._place, one.evidence))) for one in self.results
        )

    def _place(self, location: str) -> str:
        recorded = self.settings.evidence / RUNS / location.rpartition("/")[2]
        if not recorded.is_dir():
            return location
        return recorded.relative_to(self.settings.root).as_posix()

    @cached_property
    def _contracts(self) -> dict[str, Contract]:
        found = {}
        for result in self.results:
            if result.contract not in found:
                contract = self._contract(result)
                if contract is not None:
                    found[result.contract] = contract
        return found

    def _contract(self, result: Result) -> Contract | None:
        try:
            judged = self.judged(result)
            if judged is not None:
                return judged
            path = self.settings.root / result.contract
            return load_contract(path, result.contract, self.settings.caps)
        except ContractError:
            return None  # somebody edited it meanwhile; the results are shown all the same

    def _manifest(self, location: str) -> Mapping[str, Any]:
        data = (self.settings.root / location / MANIFEST).read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(data)
        return manifest


def source_of(results: Sequence[Result]) -> str:
    """In one sentence, where the evidence of these results came from."""
    modes = {result.mode for result in results} - {Mode.NONE}
    if modes <= {Mode.REPLAYED, Mode.DECLARED}:
        return "Judged again from recorded evidence; nothing was run."
    if Mode.REPLAYED in modes:
        return "Run here where this machine could, else judged again from recorded evidence."
    return "Run and judged on this machine."


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        GatesError: it cannot be written, or something else than a file lies there: a file put in a
            device's place would be the end of that device.
    """
    if path.exists() and not path.is_file():
        raise GatesError(f"{path}: cannot be written (not a regular file)")
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="utf-8", errors="backslashreplace")  # a file's name
        staged.replace(path)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise GatesError(f"{path}: cannot be written ({error.strerror})") from None


def _told(path: Path, make: Callable[[], str]) -> str:
    try:
        write_text(path, make())
    except GatesError as error:
        return f"not written: {error}"
    return f"written {path}"
