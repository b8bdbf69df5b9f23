"""The rim of a session: what becomes a verdict, and what only an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from loading import RUN, gate, loaded
from sealed import seal_run, step_lines

from pytest_gates.contract.models import Contract
from pytest_gates.errors import RunError
from pytest_gates.model.config import PretrainRun
from pytest_gates.results import Status
from pytest_gates.run.bench import Bench
from pytest_gates.run.drivers import DRIVERS
from pytest_gates.run.plan import Execution
from pytest_gates.session import GatesSession
from pytest_gates.settings import Settings

CPU = RUN.replace("cuda:0", "cpu")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training run ends because its disk is full."""

    def produce(bench: Bench, execution: Execution, holder: str) -> Path:
        assert isinstance(execution.run, PretrainRun), holder
        reason = "No space left on device"
        return seal_run(bench.sealed, run=execution.run, lines=step_lines(2), status="IO_ERROR",
                        reason=reason, scratch=bench.settings.root / "scratch")  # fmt: skip

    monkeypatch.setitem(DRIVERS, "pretrain", produce)


def a_session(root: Path) -> GatesSession:
    return GatesSession(Settings(root=root, session="s"))


def records(root: Path) -> list[Path]:
    return list((root / "evidence").rglob("*.json"))


def one_gate(check: str) -> Contract:
    return loaded(gate(check, verdict="pending"), CPU)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_no_verdict_unless_it_is_what_the_gate_claims(tmp_path: Path) -> None:
    contract = one_gate("{kind: finite, metrics: [train_loss]}")
    with pytest.raises(RunError, match=r"base ended IO_ERROR: No space left .* nothing was record"):
        a_session(tmp_path).verify(contract, contract.gates[0])
    assert records(tmp_path) == []
    claimed = one_gate("{kind: exit_status, expect: [IO_ERROR, OUT_OF_MEMORY]}")
    result = a_session(tmp_path).verify(claimed, claimed.gates[0])
    assert result.status is Status.PASS
    assert len(records(tmp_path)) == 2  # the evidence's manifest and the record


def test_an_error_of_the_machine_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    contract = one_gate("{kind: finite, metrics: [train_loss]}")
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "evidence/records/ab")
    result = a_session(tmp_path).failed(contract, contract.gates[0], error)
    assert (result.status, result.red) == (Status.ERROR, True)
    assert result.reason == "evidence/records/ab: No space left on device"
    assert result.report.splitlines()[0] == "c.yaml:11:5: G ERROR"
    assert a_session(tmp_path).failed(contract, contract.gates[0], RunError("why")).reason == "why"
