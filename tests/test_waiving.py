"""Waivers: a known failure is expected until a day, and never left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from project import RECORDED, Project

from pytest_gates import cli

QUICK = [40.0 + (index % 7) for index in range(30)]
SLOW = [200.0 + (index % 7) for index in range(30)]
WAIVER = 'waiver: {reason: "slow driver, bug 123", owner: ops, until: %s}'


def waived(project: Project, until: str, walls: list[float]) -> Project:
    project.steps("steps.jsonl", wall_ms=walls)
    project.contract(RECORDED.replace("note: kept", WAIVER % until))
    return project


def test_a_waived_failure_is_expected_recorded_and_listed(project: Project) -> None:
    result = waived(project, "2999-12-31", SLOW).run("-v", "-rx", "--junitxml", "out.xml")
    result.assert_outcomes(xfailed=1)
    assert result.ret == 0
    told = "waived until 2999-12-31 by ops: slow driver, bug 123"
    result.stdout.fnmatch_lines(
        [
            "*GATE-MEDIAN FAIL WAIVED*",
            f"waived: GATE-MEDIAN FAIL: {told}",
            f"FAIL WAIVED *::GATE-MEDIAN - {told}",
        ]
    )
    assert "verdict: fail" in (project.contracts / "claims.yaml").read_text(encoding="utf-8")
    assert f'name="waiver" value="{told}"' in (project.root / "out.xml").read_text("utf-8")


def test_a_waiver_that_has_expired_excuses_nothing(project: Project) -> None:
    result = waived(project, "2020-01-31", SLOW).run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the waiver has expired: waived until 2020-01-31 by ops*"])


def test_a_gate_that_passes_again_must_lose_its_waiver(project: Project) -> None:
    result = waived(project, "2999-12-31", QUICK).run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the gate passes, remove its waiver*"])
    assert "verdict: pass" in (project.contracts / "claims.yaml").read_text(encoding="utf-8")


def test_a_typed_verdict_is_not_excused(project: Project) -> None:
    waived(project, "2999-12-31", SLOW)
    path = project.contracts / "claims.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("verdict: pending", "verdict: fail"))
    project.run().assert_outcomes(failed=1)


def test_a_day_that_no_calendar_has_is_refused_at_its_place(project: Project) -> None:
    result = waived(project, "2026-02-30", SLOW).run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["contracts/claims.yaml:18:*a day of the calendar*2026-02-30*"])


@pytest.mark.parametrize(
    ("until", "walls", "told", "status"),
    [
        ("2999-12-31", SLOW, "PG503", 0),
        ("2020-01-31", SLOW, "PG501", 1),
        ("2999-12-31", QUICK, "PG502", 1),
    ],
)
def test_the_audit_lists_it(
    audited: Callable[[], tuple[int, str]], project: Project, *, until: str, walls: list[float],
    told: str, status: int,
) -> None:  # fmt: skip
    waived(project, until, walls).run()
    found, text = audited()
    assert found == status
    assert f"{told} C-STEPS::GATE-MEDIAN: waived until {until} by ops" in text


@pytest.fixture
def audited(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], tuple[int, str]]:
    def run() -> tuple[int, str]:
        monkeypatch.chdir(project.root)
        capsys.readouterr()
        status = cli.main(["audit", "contracts"])
        return status, capsys.readouterr().out

    return run
