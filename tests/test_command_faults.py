"""Driver `command`: faults that come from outside, and gates that are seen red by them."""

from __future__ import annotations

import pytest
from programs import Program

from pytest_gates.model.config import CommandRun
from pytest_gates.model.telemetry import METRICS

# --- faults ------------------------------------------------------------------------------------

TWENTY = """
    for n in range(20):
        tell(n, 5 - float(os.environ.get("RATE", "1")) * n / 10)
        time.sleep(float(os.environ.get("PAUSE", "0")))
"""


def falsifier(fault: str, check: str) -> str:
    return (
        "falsification_tests: [{id: FALSIFY-OWN, binds_to: GATE-OWN, "
        f"inject: {fault}, expect: {{verdict: fail, check: {check}}}}}]"
    )


@pytest.mark.parametrize(
    ("fault", "checks", "check"),
    [
        ("{fault: other_environment, variables: {RATE: '0'}}",
         "[{kind: not_constant, metric: train_loss}]", "not_constant"),
        ("{fault: killed_program}", "[{kind: exit_status}]", "exit_status"),
        ("{fault: killed_program, after_s: 0.1}", "[{kind: exit_status}]", "exit_status"),
        ("{fault: slow_program, pause_ms: 400, run_ms: 10}",
         "[{kind: exit_status, within_s: 5.0}]", "exit_status"),
        ("{fault: planted_telemetry, metric: train_loss, value: NaN, from_step: 7}",
         "[{kind: finite, metrics: [train_loss]}]", "finite"),
        ("{fault: planted_telemetry, metric: train_loss, value: 3.5}",
         "[{kind: not_constant, metric: train_loss}]", "not_constant"),
    ],
)  # fmt: skip
def test_a_gate_is_seen_red_without_the_programs_help(
    program: Program, fault: str, checks: str, check: str
) -> None:
    more = "environment: {PAUSE: '0.04'}"
    done = program(TWENTY, checks=checks, more=more, falsifier=falsifier(fault, check))
    done.assert_outcomes(passed=2)
    assert "CAUGHT" in done.stdout.str()


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [("edited_evidence", "tampered"), ("foreign_configuration", "blocked"),
     ("typed_verdict", "unfounded")],
)  # fmt: skip
def test_planted_evidence_of_a_program_is_found(program: Program, fault: str, verdict: str) -> None:
    attack = (
        "falsification_tests: [{id: FALSIFY-OWN, binds_to: GATE-OWN, "
        f"inject: {{fault: {fault}}}, expect: {{verdict: {verdict}}}}}]"
    )
    program(TWENTY, falsifier=attack).assert_outcomes(passed=2)


def test_faults_of_the_built_in_trainer_cannot_apply(program: Program) -> None:
    done = program(TWENTY, falsifier=falsifier("{fault: nan_step, step: 3}", "finite"))
    assert "the fault cannot apply: the fault works inside the built-in trainer" in (
        done.stdout.str()
    )


def test_missing_metrics_of_a_program_are_blocked_with_what_is_there(program: Program) -> None:
    done = program(TWENTY, "-rs", checks="[{kind: finite, metrics: [grad_norm]}]",
                   telemetry="[{stdout: true, format: jsonl, fields: {lr: rate}}]")  # fmt: skip
    done.assert_outcomes(skipped=1)
    assert "tells no grad_norm: standard output holds step, train_loss" in done.stdout.str()


def test_the_metrics_that_a_fault_plants_exist() -> None:
    run = CommandRun(driver="command", argv=("true",), device="cpu")
    from pytest_gates.model.faults.program import PlantedTelemetry

    assert PlantedTelemetry.typical(run).metric in METRICS


def test_mutation_asks_for_permission_too(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_gates.cli import main

    # A declared environment is what no pickle of a mutant survives.
    program(TWENTY, "--collect-only", more="environment: {WORDS: many}")
    monkeypatch.chdir(program.project.root)
    command = ["mutate", "contracts", "--fault", "planted_telemetry", "--fresh"]
    main(command)
    assert "blocked on this machine: planted_telemetry" in capsys.readouterr().out
    assert main([*command, "--allow-driver", "command"]) == 0
    assert "CAUGHT" in capsys.readouterr().out.upper()
