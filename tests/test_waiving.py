"""Waivers: a known failure is expected until a day, and never left behind."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from audited import QUICK, SLOW, TRAINED
from project import RECORDED, Project

from pytest_gates import cli

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
    result.stdout.fnmatch_lines(
        ["waiver without effect: GATE-MEDIAN FAIL: waived until 2020-01-31*"]
    )
    result.stdout.no_fnmatch_line("waived: *")


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


BOUND = """
    falsification_tests:
      - id: FALSIFY-MEDIAN
        binds_to: GATE-MEDIAN
        inject: {fault: planted_metric, metric: wall_ms, factor: %s}
        expect: {verdict: fail, check: budget}
"""
TOLD = "waived until %s by ops: slow driver, bug 123"


def falsified(project: Project, until: str, walls: list[float], factor: float = 10.0) -> Project:
    project.steps("steps.jsonl", wall_ms=walls)
    project.contract(RECORDED.replace("note: kept", WAIVER % until) + BOUND.lstrip("\n") % factor)
    return project


@pytest.mark.parametrize("mode", [(), ("--gates-strict",), ("--gates-replay",)])
def test_a_falsifier_of_a_gate_that_is_waived_and_fails_is_waived_with_it(
    project: Project, mode: tuple[str, ...]
) -> None:
    pytest.importorskip("vl_convert")
    falsified(project, "2999-12-31", SLOW).run().assert_outcomes(xfailed=2)
    html = "gates.html"
    result = project.run("-v", "-rx", *mode, "--gates-report", html, "--gates-attest", "out.json")
    result.assert_outcomes(xfailed=2)
    assert result.ret == 0
    reason = TOLD % "2999-12-31"
    result.stdout.fnmatch_lines(
        [
            "*FALSIFY-MEDIAN SURVIVED WAIVED*",
            "  FALSIFY-MEDIAN *SURVIVED WAIVED *without the attack the gate is fail*",
            "waived with GATE-MEDIAN: FALSIFY-MEDIAN",
            f"SURVIVED WAIVED *::FALSIFY-MEDIAN - {reason}",
        ]
    )
    assert "SURVIVED WAIVED" in (project.root / html).read_text(encoding="utf-8")
    warned = json.loads((project.root / "out.json").read_text(encoding="utf-8"))["predicate"]
    assert warned["warnedTests"] == [
        "contracts/claims.yaml::GATE-MEDIAN",
        "contracts/claims.yaml::FALSIFY-MEDIAN",
    ]


def test_once_the_waiver_has_expired_the_falsifier_is_red_too(project: Project) -> None:
    result = falsified(project, "2020-01-31", SLOW).run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*: FALSIFY-MEDIAN SURVIVED",
            "  waiver * the waiver has expired: waived until 2020-01-31 by ops*",
            "SURVIVED *::FALSIFY-MEDIAN - the waiver has expired*",
        ]
    )


@pytest.mark.parametrize("factor", [0.5, 10.0])
def test_beside_a_green_control_a_waiver_excuses_no_falsifier(
    project: Project, factor: float
) -> None:
    result = falsified(project, "2999-12-31", QUICK, factor).run("-k", "FALSIFY")
    survived = factor < 1
    result.assert_outcomes(failed=int(survived), passed=int(not survived))
    assert "WAIVED" not in result.stdout.str()


def test_an_undecided_control_excuses_no_falsifier(project: Project) -> None:
    undecided = [40.0 if index % 2 else 200.0 for index in range(30)]
    result = falsified(project, "2999-12-31", undecided).run("-k", "FALSIFY")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*without the attack the gate is inconclusive*"])


def test_a_run_beside_a_waived_control_is_recorded_and_listed_by_the_audit(
    project: Project, audited: Callable[[], tuple[int, str]]
) -> None:
    waiver = WAIVER % "2999-12-31"
    below = TRAINED % "1.0"
    project.contract(below.replace("verdict: pending", f"{waiver}\n        verdict: pending"))
    project.run().assert_outcomes(xfailed=2)
    project.run("--gates-replay").assert_outcomes(xfailed=2)
    # Where only live results count, a known failure is still a known failure.
    project.run("--gates-replay", "--gates-live").assert_outcomes(xfailed=2)
    found, text = audited()
    assert found == 0
    assert "PG504 C-TRAINED::FALSIFY-TRAINED: record " in text
    path = project.contracts / "claims.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("2999", "2020"), encoding="utf-8")
    project.run("--gates-replay").assert_outcomes(failed=2)
