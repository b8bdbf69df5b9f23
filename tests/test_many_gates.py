"""Many gates in one session: the terminal stays readable, and nothing is left behind for each."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from pytest_gates import evidence_store
from tests.project import Project

RUN = """
contract_id: C-MANY
version: 1.0.0
runs:
  log:
    driver: recorded
    files: [{path: steps.jsonl, format: jsonl}]
gates:
"""
GATE = """
  - id: GATE-{number:03d}
    run: log
    checks: [{{kind: bounded, metric: train_loss, below: {limit}}}]
    verdict: pending
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(pytester, monkeypatch)
    project.steps("steps.jsonl", train_loss=[3.0, 2.0, 1.0])
    return project


def write_gates(project: Project, count: int, *, failing: int) -> Path:
    limits = [0.5 if number == failing else 9.0 for number in range(count)]
    gates = [GATE.format(number=number, limit=limit) for number, limit in enumerate(limits)]
    return project.contract(RUN + "".join(gates))


def test_beyond_200_gates_plain_passes_are_counted_and_the_rest_is_listed(
    project: Project,
) -> None:
    write_gates(project, 202, failing=7)
    result = project.run("--gates-record", "never")
    table = result.stdout.str().partition("= gates =")[2]
    assert "GATE-007  pending  FAIL" in table
    assert "GATE-100  pending" not in table
    result.stdout.fnmatch_lines(["201 gates that passed are not listed; -v lists them"])
    result.stdout.fnmatch_lines(["and more than these 200 lines; -v shows them all"])


def test_v_lists_them_all(project: Project) -> None:
    write_gates(project, 202, failing=7)
    result = project.run("--gates-record", "never", "-v")
    table = result.stdout.str().partition("= gates =")[2]
    assert "GATE-100  pending  PASS" in table
    assert "-v lists" not in table


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_what_would_be_recorded_is_shown_and_lies_nowhere(
    project: Project, workers: tuple[str, ...]
) -> None:
    path = write_gates(project, 4, failing=3)
    before = path.read_bytes()
    result = project.process("--gates-record", "never", *workers)
    result.stdout.fnmatch_lines(["would write contracts/claims.yaml (GATE-000, *and 1 more):"])
    assert result.stdout.str().count("+    verdict: pass") == 3
    assert path.read_bytes() == before
    assert not list(project.root.rglob("records"))


def test_a_pass_at_the_first_attempt_leaves_no_attempts_behind(project: Project) -> None:
    write_gates(project, 3, failing=2)
    project.run("--gates-record", "never")
    assert len(list((project.root / ".pytest_gates" / "attempts").iterdir())) == 1


def test_the_collector_of_garbage_is_as_it_was_when_the_session_is_over(project: Project) -> None:
    write_gates(project, 3, failing=7)
    before = gc.get_threshold()
    gc.set_threshold(701, 11, 12)
    try:
        project.run("--gates-record", "never")
        assert gc.get_threshold() == (701, 11, 12)
        assert gc.get_freeze_count() == 0
    finally:
        gc.set_threshold(*before)


def test_what_other_tests_leave_is_still_found_at_the_end(project: Project) -> None:
    """A finalizer that raises, within a cycle that nothing but a collection finds."""
    write_gates(project, 3, failing=7)
    project.pytester.makepyfile(
        """
        class Broken:
            def __init__(self):
                self.itself = self

            def __del__(self):
                raise ValueError("from a finalizer")

        def test_it():
            Broken()
        """
    )
    result = project.run(".", "--gates-record", "never")
    assert "from a finalizer" in result.stdout.str() + result.stderr.str()


def test_a_recorded_run_that_was_sealed_before_is_not_written_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gates(project, 1, failing=7)
    project.run("--gates-record", "never").assert_outcomes(passed=1)

    def refuse(target: Path, data: bytes) -> None:
        raise AssertionError(f"{target.name} was written")

    monkeypatch.setattr(evidence_store, "write_durably", refuse)
    project.run("--gates-record", "never").assert_outcomes(passed=1)
