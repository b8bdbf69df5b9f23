"""One gate, one place: records name a gate by its contract and its id, not by a file."""

from __future__ import annotations

from pytest_gates.contract.models import Contract
from pytest_gates.errors import ContractError, Finding, Place


class Declared:
    """What the contracts of one session declare for execution."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], Place] = {}

    def add(self, contract: Contract) -> None:
        """Remember the gates and falsifiers of a file; of the same file again is nothing new.

        Raises:
            ContractError: another file declares the same contract and id.
        """
        findings = []
        for item in contract.items:
            if item.prose:
                continue
            first = self._places.setdefault((contract.id, item.id), item.place)
            if first.file != contract.file:
                text = (
                    f"`{item.id}` of contract `{contract.id}` is declared in "
                    f"{first.file}:{first.line} already; give one of them another `contract_id`"
                )
                findings.append(Finding(item.place, text))
        if findings:
            raise ContractError(tuple(findings))
