"""The catalogue: in step with its page, its effects, and the contracts that use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Project

from pytest_gates.boundary import flaw, proofs
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.bounds import Bounded
from pytest_gates.contract.load import contract_from, load_contract
from pytest_gates.contract.models import Contract, check_kind
from pytest_gates.contract.runs import Caps
from pytest_gates.errors import ContractError
from pytest_gates.model.faults import FAULTS, Planted
from pytest_gates.mutation import Fate, Mutant, Trial, plan, scored, until_caught
from pytest_gates.report.catalogue import catalogue

ROOT = Path(__file__).parent.parent
EVERY = [path.stem for path in sorted((ROOT / "contracts").glob("*.yaml"))]


def contract(name: str) -> Contract:
    return load_contract(ROOT / "contracts" / f"{name}.yaml", name, Caps())


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") == catalogue()


def test_every_fault_has_an_effect_or_an_attack() -> None:
    from pytest_gates.attacks import ATTACKS
    from pytest_gates.model.sabotage import EFFECTS
    from pytest_gates.run.sabotage import AFTER, BEFORE, DURING

    assert {*EFFECTS, *BEFORE, *DURING, *AFTER, *ATTACKS} == set(FAULTS)


def test_every_fault_applies_to_a_run_of_the_contracts() -> None:
    mutants = plan([contract(name) for name in EVERY])
    applied = {mutant.name for mutant in mutants if mutant.fault is not None}
    assert applied == {form.model_fields["fault"].annotation.__args__[0] for form in FAULTS}


@pytest.mark.parametrize("name", EVERY)
def test_each_check_of_each_gate_is_the_target_of_a_falsifier(name: str) -> None:
    """A falsifier is caught only if its own target goes red, so without it the falsifier fails."""
    declared = contract(name)
    aimed = {(one.binds_to, one.target) for one in declared.falsifiers if one.target is not None}
    unaimed = [
        f"{gate.id} {check_kind(check)}"
        for gate in declared.gates
        for index, check in enumerate(gate.checks)
        if (gate.id, index) not in aimed
    ]
    assert not unaimed


@pytest.mark.parametrize("name", EVERY)
def test_without_any_one_check_a_falsifier_of_its_gate_no_longer_stands(name: str) -> None:
    """Each check is taken out of its gate in turn, and the contract is loaded without it."""
    declared = yaml.safe_load((ROOT / "contracts" / f"{name}.yaml").read_text(encoding="utf-8"))
    for gate in declared["gates"]:
        bound = [one for one in declared["falsification_tests"] if one["binds_to"] == gate["id"]]
        bare = {key: gate[key] for key in gate.keys() - {"checks", "verdict_basis"}}

        def load(checks: list[Any], bare: Any = bare, bound: Any = bound) -> Contract:
            less = {**bare, **({"checks": checks} if checks else {})}
            whole = declared | {"gates": [less], "falsification_tests": bound}
            return contract_from(yaml.safe_dump(whole, sort_keys=False), name, Caps())

        assert load(gate["checks"]).gates[0].id == gate["id"]
        for index in range(len(gate["checks"])):
            rest = [one for at, one in enumerate(gate["checks"]) if at != index]
            with pytest.raises(ContractError, match=r"the gate has|has no checks to turn red"):
                load(rest)


def test_verdicts_turn_at_their_limits_in_every_contract() -> None:
    found = []
    for name in EVERY:
        for gate in contract(name).gates:
            assert flaw(gate) is None
            found += list(proofs(gate))
    assert {Verdict.PASS, Verdict.FAIL} <= {proof.found for proof in found}
    numeric = {"budget", "bounded", "descent", "fact", "exit_status", "equal_runs", "memory"}
    numeric |= {"ratio_of_runs", "monotone", "event", "anatomy", "layer_statistics", "schedule"}
    numeric |= {"residency", "artifacts", "trace_spike", "trace_parity", "equal_ranks"}
    assert numeric <= {one.check for one in found}


def test_a_check_that_turns_an_ulp_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Bounded,
        "_out",
        lambda self, at, values: [
            pair for pair in zip(at, values, strict=True) if not pair[1] <= (self.below or pair[1])
        ],
    )
    gate = next(one for one in contract("training-smoke").gates if one.id == "GATE-SMOKE-010")
    assert str(flaw(gate)) == "bounded below 4.2: 4.2 gives pass, not fail"


def test_a_fault_counts_as_caught_once_and_a_gate_that_sees_nothing_is_blind() -> None:
    mutants = [one for one in plan([contract("trainer-guards")]) if one.fault is not None]
    frozen = [one for one in mutants if one.name == "frozen_weights"]
    score = scored([Trial(one, Fate.SURVIVED, "") for one in frozen])
    assert score.survivors == ("frozen_weights",)
    assert score.blind == tuple(one.gate.id for one in frozen)
    better = [Trial(frozen[0], Fate.CAUGHT, ""), *(Trial(o, Fate.SURVIVED, "") for o in frozen[1:])]
    assert scored(better).survivors == ()
    assert (scored(better).caught, scored(better).tried) == (1, 1)


def test_for_the_score_a_fault_is_tried_until_it_is_caught_where_declared_first() -> None:
    mutants = [one for one in plan([contract("training-loop")]) if one.name == "divergence_off"]
    seen: list[str] = []

    def tried(many: Sequence[Mutant], fate: Fate) -> Iterator[Trial]:
        for one in many:
            seen.append(one.gate.id)
            yield Trial(one, Fate.MISFIT if one.fault is None else fate, "")

    assert len(list(until_caught(mutants, lambda many: tried(many, Fate.CAUGHT)))) == 1
    assert seen == ["GATE-LOOP-005"]
    survived = list(until_caught(mutants, lambda many: tried(many, Fate.SURVIVED)))
    assert len(survived) == len(mutants)
    assert scored(survived, blindness=False).blind == ()
    assert scored(survived).blind != ()


def test_attacks_name_what_they_turn_a_gate_into() -> None:
    attacks = [form for form in FAULTS if issubclass(form, Planted)]
    assert {form.verdict for form in attacks} == {"tampered", "blocked", "unfounded", "fail"}


BLIND = """
    contract_id: C-BLIND
    runs:
      small:
        driver: pretrain
        device: cpu
        model: llama-1m
        data: {corpus: python-stdlib}
        seq_len: 16
        batch_size: 2
        steps: 20
        validation_batches: 0
        optimizer: {warmup_steps: 1}
    gates:
      - id: GATE-BLIND
        run: small
        checks: [{kind: descent, slope_below: .inf, start_tolerance: null}]
        verdict: pending
    falsification_tests:
      - id: FALSIFY-BLIND
        binds_to: GATE-BLIND
        inject: {fault: frozen_weights}
        expect: {verdict: fail, check: descent}
"""


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--gate", "GATE-BLNID"), "--gate: there is no 'GATE-BLNID' here; did you mean `GATE-BLI"),
        (("--fault", "frozen_weight"), "--fault: there is no 'frozen_weight' here; did you mean `"),
    ],
)
def test_mutate_refuses_a_name_that_nothing_has_for_nothing_tried_is_no_success(
    project: Project, capsys: pytest.CaptureFixture[str], option: tuple[str, str], said: str
) -> None:
    from pytest_gates.cli import main

    file = project.contract(BLIND)
    for more in ((), ("--plan",)):
        assert main(["mutate", str(file), *option, *more]) == 1
        told = capsys.readouterr()
        assert (told.out, told.err.startswith(said)) == ("", True)


def test_a_blind_gate_lets_its_falsifier_survive_and_mutate_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.contract(BLIND)
    result = project.run("--gates-record", "never")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FALSIFY-BLIND SURVIVED*"])
    from pytest_gates.cli import main

    monkeypatch.chdir(project.root)
    assert main(["mutate", "contracts", "--fault", "frozen_weights"]) == 1
    said = capsys.readouterr().out
    assert "SURVIVED frozen_weights" in said
    assert "BLIND GATE-BLIND" in said
    assert "score: 0 of 1 faults caught (0.0 %)" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "fault: frozen_weights",
            "fault: frozen_weight",
            "unknown fault `frozen_weight`; did you mean `frozen_weights`?",
        ),
        ("fault: frozen_weights", "fault: nan_step, step: -1", "greater than or equal to 0"),
        ("fault: frozen_weights", "fault: silent_cpu_fallback", "the run asks for cpu"),
        ("binds_to: GATE-BLIND", "binds_to: GATE-BLINT", "there is no gate `GATE-BLINT`"),
        ("verdict: fail", "verdict: tampered", "turns a gate fail, never tampered"),
        ("check: descent", "check: budget", "the gate has no check `budget`"),
        ("check: descent", "check: descent, where: {steps: [1, 2]}", "none fits `where`"),
        ("fault: frozen_weights", "fault: nan_step, stop: 3", "unknown key `stop`"),
        ("fault: frozen_weights", "fault: nan_step, step: 20", "step 20 lies beyond the run's 20"),
        ("fault: frozen_weights", "fault: slow_step, ms: 0", "greater than 0"),
        ("fault: frozen_weights", "fault: slow_step, ms: 60001", "less than or equal to 60000"),
        ("fault: frozen_weights", "fault: slow_step, ms: fast", "ms"),
        ("fault: frozen_weights", "fault: vanishing_gradient, factor: 1.0", "less than 1"),
        ("inject: {fault: frozen_weights}", "inject: {}", "`inject` needs a `fault`"),
        ("inject: {fault: frozen_weights}", "inject: frozen_weights", "`inject` needs a `fault`"),
        ("verdict: fail", "verdict: pass", "verdict"),
        ("verdict: fail", "verdict: inconclusive", "verdict"),
        ("verdict: fail, check: descent", "verdict: fail", "the gate has no check `None`"),
        ("expect: {verdict: fail, check: descent}", "note: none", "needs `expect:"),
        (
            "binds_to: GATE-BLIND",
            "note: none",
            "needs `binds_to`, the id of a gate; known: GATE-BLIND",
        ),
    ],
)
def test_a_falsifier_that_cannot_work_is_an_error_with_its_line(
    project: Project, old: str, new: str, said: str
) -> None:
    path = project.contract(BLIND)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    result = project.run("--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert said in result.stdout.str()
    assert re.search(r"contracts/claims\.yaml:\d+:\d+: ", result.stdout.str())


def test_all_that_is_wrong_with_falsifiers_is_said_at_once_and_nothing_is_written(
    project: Project,
) -> None:
    path = project.contract(BLIND)
    text = path.read_text(encoding="utf-8")
    wrong = text.replace("frozen_weights", "frozen_weight").replace("binds_to: GATE", "binds_to: G")
    path.write_text(wrong, encoding="utf-8")
    result = project.run()
    said = result.stdout.str()
    assert "unknown fault `frozen_weight`" in said
    assert "there is no gate `G-BLIND`; did you mean `GATE-BLIND`?" in said
    assert path.read_text(encoding="utf-8") == wrong
    assert not (project.root / "evidence").exists()


def test_prose_falsifiers_that_name_no_gate_load(project: Project) -> None:
    path = project.contract(BLIND)
    text = path.read_text(encoding="utf-8").replace(
        "falsification_tests:",
        "falsification_tests:\n  - {id: FALSIFY-PROSE, rule: Somebody looks at it.}\n"
        "  - {id: FALSIFY-ELSEWHERE, binds_to: GATE-OF-ANOTHER-CONTRACT}",
    )
    path.write_text(text, encoding="utf-8")
    assert project.run("--collect-only").ret == pytest.ExitCode.OK


BOUNDED = "{kind: bounded, metric: train_loss, below: 6.5}"


def test_mutants_are_tried_two_at_a_time_and_a_second_call_tries_none_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeing = BLIND.replace("{kind: descent, slope_below: .inf, start_tolerance: null}", BOUNDED)
    seeing = seeing.replace("check: descent", "check: bounded")
    project.contract(seeing.replace("frozen_weights", "loss_spike, step: 3"))
    on_gpu = BLIND.replace("C-BLIND", "C-GPU").replace("BLIND", "ON-GPU").replace("cpu", "cuda")
    project.contract(on_gpu, "gpu.yaml")
    from pytest_gates.cli import main

    monkeypatch.chdir(project.root)
    faults = [word for name in ("loss_spike", "nan_step") for word in ("--fault", name)]
    assert main(["mutate", "contracts", *faults, "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "score: 2 of 2 faults caught (100.0 %)" in said
    assert "blocked 2 mutants of 1 gates: no NVIDIA GPU on this machine" in said
    assert said.rstrip().splitlines()[-1].endswith(": GATE-ON-GPU")
    # One clean control, whichever process was first, and a sabotaged run for each fault.
    runs = list((project.root / ".pytest_gates" / "evidence").glob("*/manifest.json"))
    assert len(runs) == 3
    for one in runs:
        one.unlink()
    assert main(["mutate", "contracts", *faults]) == 0
    assert "score: 2 of 2" in capsys.readouterr().out
    assert not list((project.root / ".pytest_gates" / "evidence").glob("*/manifest.json"))
