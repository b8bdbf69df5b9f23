"""The forkserver that is started beside the collection, where all that is judged is executed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest
from project import Project

from pytest_gates.errors import RunError
from pytest_gates.model.config import ProbeRun
from pytest_gates.run.gpus import Gpus
from pytest_gates.run.server import Server, environment
from pytest_gates.run.worker import Worker

REFUSED = """
    contract_id: C-REFUSED
    version: 1.0.0
    status: ACTIVE
    runs:
      no-cuda: {driver: pretrain, device: "cuda:0", model: llama-1m, data: {corpus: python-stdlib},
                seq_len: 8, batch_size: 1, steps: 1, host: {cuda: hidden},
                optimizer: {warmup_steps: 0}}
    gates:
      - id: GATE-REFUSED
        rule: Without a GPU the run is refused.
        run: no-cuda
        checks: [{kind: exit_status, expect: DEVICE_UNAVAILABLE}]
        verdict: pending
"""
LOOKS = """
    import json, pathlib, psutil

    def below():
        told = [(one.pid, one.cmdline()) for one in psutil.Process().children()]
        return [pid for pid, words in told if "pytest_gates.model.forkserver" in words]

    def tell(name, found):
        pathlib.Path(name).write_text(json.dumps(found))

    def pytest_collection():
        tell("collection.json", below())

    def pytest_runtest_logfinish():
        tell("item.json", below())
"""


def servers(project: Project, when: str) -> list[int]:
    """PIDs of the forkservers that a session had below itself."""
    found: list[int] = json.loads((project.root / f"{when}.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def watched(project: Project) -> Project:
    project.contract(REFUSED)
    project.pytester.makeconftest(LOOKS)
    return project


def test_what_is_executed_comes_out_of_the_one_that_was_started_early(watched: Project) -> None:
    watched.run("--gates-live").assert_outcomes(passed=1)
    (early,) = servers(watched, "collection")
    assert servers(watched, "item") == [early]
    assert not psutil.pid_exists(early)


@pytest.mark.parametrize(
    "options", [(), ("--gates-live", "--gates-replay"), ("--gates-live", "--collect-only")]
)
def test_who_may_execute_nothing_starts_none_early(
    watched: Project, options: tuple[str, ...]
) -> None:
    watched.run(*options)
    assert servers(watched, "collection") == []


def test_a_session_that_ends_before_any_run_leaves_none_behind(watched: Project) -> None:
    watched.contract("gates: [", "typo.yaml")
    watched.run("--gates-live").assert_outcomes(errors=1)
    (early,) = servers(watched, "collection")
    assert not psutil.pid_exists(early)


def test_in_another_environment_another_one_serves(tmp_path: Path) -> None:
    """As after a conftest has set `CUDA_VISIBLE_DEVICES` while tests were collected."""
    early = Server(environ={**environment(os.environ), "CUDA_VISIBLE_DEVICES": "7"})
    with Worker(cache=tmp_path, root=tmp_path, gpus=Gpus(None), early=early) as worker:
        assert worker.execute(ProbeRun(driver="probe")).status == "COMPLETED"
        assert psutil.Process(early.pid).children() == []
    assert not psutil.pid_exists(early.pid)


def test_one_that_cannot_import_is_named_and_the_next_run_gets_another(tmp_path: Path) -> None:
    environ = environment(os.environ)
    early = Server(environ=environ)
    psutil.Process(early.pid).kill()
    with Worker(cache=tmp_path, root=tmp_path, gpus=Gpus(None), early=early) as worker:
        with pytest.raises(RunError, match=r"forkserver.* ended with code -9"):
            worker.execute(ProbeRun(driver="probe"))
        assert worker.execute(ProbeRun(driver="probe")).status == "COMPLETED"
