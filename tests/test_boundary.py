"""Boundary proof: every numeric check turns exactly at its limit; one that does not is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_gates.boundary import PROVEN, Proof, flaw, proofs
from pytest_gates.checks import CHECKS
from pytest_gates.checks.anatomy import Anatomy
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.equal_runs import EqualRuns
from pytest_gates.checks.layer_statistics import LayerStatistics
from pytest_gates.checks.memory import Memory
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.ratio_of_runs import RatioOfRuns
from pytest_gates.contract.load import contract_from
from pytest_gates.contract.models import Gate, check_kind
from pytest_gates.contract.runs import Caps

ROOT = Path(__file__).parent.parent
CONTRACT = """
contract_id: C-LIMITS
runs:
  a: &
    driver: pretrain
    device: cuda:0
    model: llama-1m
    data: {corpus: python-stdlib}
    seq_len: 16
    batch_size: 4
    steps: 40
    statistics: [0]
    anatomy: 10
    checkpoint: epoch
    optimizer: {warmup_steps: 2}
  b: {from: a, seed: 1}
  ranks:
    driver: pretrain
    device: cpu
    model: llama-1m
    data: {corpus: python-stdlib}
    seq_len: 16
    batch_size: 4
    steps: 40
    launch: {processes: 2}
  path: {driver: forward, device: cpu, model: llama-1m, against: {backward: true}}
gates:
  - id: GATE-ONE
    run: RUN
    checks: [CHECK]
    verdict: pending
""".replace("a: &", "a:")
NUMERIC = [
    "{kind: budget, metric: wall_ms, steps: [0, 39], below: 100.0}",
    "{kind: budget, metric: tokens_per_sec, steps: [0, 39], above: 100.0}",
    "{kind: bounded, metric: grad_norm, above: 0.1, below: 9.0}",
    "{kind: descent, metric: train_loss}",
    "{kind: descent, drop: 0.5, slope_below: -0.01, start_tolerance: 0.2, steps: [5, 39]}",
    "{kind: residency, require: [L0, L1, L2, [L3, L3b], L4, L5]}",
    "{kind: artifacts, blocked_share_below: 0.1, host_memory_below: 3.0}",
    "{kind: fact, fact: x, at_least: 1, at_most: 2.5}",
    "{kind: fact, fact: x, equals: 12}",
    "{kind: fact, fact: x, one_of: [0.5, 2, none, true]}",
    "{kind: exit_status, expect: COMPLETED, within_s: 2.0}",
    "{kind: event, event: held, exactly: 0}",
    "{kind: event, event: held, exactly: 3}",
    "{kind: event, event: held, at_least: 2, before: run_finished}",
    "{kind: monotone, metric: tokens}",
    "{kind: monotone, metric: lr, direction: decreasing, steps: [4, 9]}",
    "{kind: monotone, metric: memory_mib, direction: non_increasing, slack: 0.3}",
    "{kind: monotone, metric: val_loss, direction: non_decreasing}",
    "{kind: memory}",
    "{kind: memory, peak: within, peak_at_least: 0.3}",
    "{kind: anatomy, covers: 0.95, at_most: {gap: 0.1, data: 0.05}, flops_share_above: 0.1}",
    "{kind: layer_statistics, metric: weight_std, above: 0.01, below: 0.03, ratio_below: 1.05}",
    "{kind: schedule}",
    "{kind: schedule, warmup_at_most: 0.1, last_at_most: 0.2, tolerance: 1.0e-6}",
    "{kind: ratio_of_runs, of: [a, b], steps: [0, 39], below: 1.1}",
    "{kind: ratio_of_runs, of: [a, b], steps: [0, 39], above: 0.9}",
    "{kind: equal_runs, of: [a, b], metrics: [train_loss, val_loss], facts: [param_sha256]}",
    "{kind: equal_runs, of: {run: a, repeat: 3}, tolerance: 1.0e-5, steps: [0, 9]}",
    "{kind: equal_runs, of: [a, b], expect: differ}",
    "{kind: equal_ranks, metrics: [train_loss, grad_norm], tolerance: 1.0e-6}",
    "{kind: equal_ranks, metrics: [data_hash], expect: differ}",
    "{kind: trace_spike, ratio: 4.0, deviations: 6.0}",
    "{kind: trace_parity, factor: 4.0}",
    "{kind: trace_parity, direction: backward}",
]


def gate(check: str) -> Gate:
    run = "path" if "trace" in check else "ranks" if "equal_ranks" in check else "a"
    text = CONTRACT.replace("RUN", run).replace("CHECK", check)
    return contract_from(text, "limits.yaml", Caps()).gates[0]


@pytest.mark.parametrize("check", NUMERIC)
def test_a_verdict_turns_at_its_limit_and_a_nan_never_passes(check: str) -> None:
    found = list(proofs(gate(check)))
    assert [str(one) for one in found if one.found != one.expected] == []
    assert {Verdict.PASS, Verdict.FAIL} <= {one.found for one in found}
    counted = check_kind(gate(check).checks[0]) == "event"  # a count is never NaN
    assert counted or not any(one.found is Verdict.PASS for one in found if one.value != one.value)


def test_every_check_with_a_limit_is_tried() -> None:
    # They count what is there or ask for sameness: nothing in them is a number to be held against.
    whole = {"finite", "required_fields", "not_constant", "property", "same_input"}
    kinds = {check_kind(gate(check).checks[0]) for check in NUMERIC}
    assert kinds == {_kind(form) for form in PROVEN}
    assert {_kind(form) for form in CHECKS} - kinds == whole


CHOOSING = {"ranks", "steps", "step", "of", "confidence", "looks"}
"""Fields with numbers that say what is looked at, or how sure a verdict is: `test_binomial` has
the counts at which that turns."""


def _numeric_fields() -> Iterator[tuple[str, str]]:
    for form in CHECKS:
        for name, field in form.model_fields.items():
            numeric = re.search(r"\b(int|float)\b", str(field.annotation))
            if numeric and name not in CHOOSING:
                yield _kind(form), name


def test_every_number_that_a_check_may_be_given_is_a_limit_that_is_tried() -> None:
    """Another value of a field is another proof, or the limit moves around it under its name."""
    untried = set(_numeric_fields())
    assert {("budget", "below"), ("artifacts", "host_memory_below")} <= untried
    for text in NUMERIC:
        whole = gate(text)
        check = whole.checks[0]
        for name in check.model_fields_set & {field for _, field in untried}:
            changed = check.model_copy(update={name: _other(getattr(check, name))})
            moved = any(one.limit == name for one in proofs(whole))
            if moved or _tried(replace(whole, checks=(changed,))) != _tried(whole):
                untried.discard((check_kind(check), name))
    assert untried == set()


def _other(value: Any) -> Any:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {key: _other(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_other, value))
    return value + 1 if isinstance(value, int) else value * 0.5


def _tried(whole: Gate) -> list[tuple[str, str, str]]:
    return [(one.limit, repr(one.value), one.found) for one in proofs(whole)]


def _kind(form: Any) -> str:
    word: str = form.model_fields["kind"].annotation.__args__[0]
    return word


def _late(name: str, function: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    form = {
        "_same": EqualRuns, "_goes_on": Monotone, "_good": RatioOfRuns, "_peak": Memory,
        "_wrong": Anatomy, "_within": LayerStatistics,
    }[name]  # fmt: skip
    return lambda patch: patch.setattr(form, name, function)


@pytest.mark.parametrize(
    ("check", "late", "said"),
    [
        ("{kind: equal_runs, of: [a, b]}", _late("_same", lambda self, a, b: abs(a - b) < 1e-300),
         "equal_runs train_loss equal up to 0: -5e-324 gives pass, not fail"),
        ("{kind: monotone, metric: lr}", _late("_goes_on", lambda self, a, b: b >= a),
         "monotone increasing by 0: 0.0 gives pass, not fail"),
        ("{kind: ratio_of_runs, of: [a, b], steps: [0, 39], below: 1.1}",
         _late("_good", lambda self, ratio, limit: ratio <= limit),
         "ratio_of_runs below 1.1: 1.1 gives pass, not fail"),
        ("{kind: memory, peak: within}", _late("_peak", lambda self, peak, estimate: iter(
            ["too much"] if peak > estimate else [])), "memory peak within: nan gives pass"),
        ("{kind: anatomy}", _late("_wrong", lambda self, shares, covered: iter(())),
         "anatomy covers 0.95: 0.9499999999999998 gives pass, not fail"),
        ("{kind: layer_statistics, metric: weight_std, above: 0.5}",
         _late("_within", lambda self, value: value >= 0.5),
         "layer_statistics above 0.5: 0.5 gives pass, not fail"),
    ],
)  # fmt: skip
def test_a_check_that_turns_too_late_is_found(
    monkeypatch: pytest.MonkeyPatch, check: str, late: Callable[[pytest.MonkeyPatch], None],
    said: str,
) -> None:  # fmt: skip
    late(monkeypatch)
    assert said in str(flaw(gate(check)))


@pytest.mark.parametrize(
    ("constant", "value", "said"),
    [
        ("BUSY_PCT", 10.1, "residency L4 % of the SMs: 10.0 gives fail, not pass"),
        ("GRANULARITY_MIB", 1.9, "residency L3b 510 MiB seen of 512: 510.0 gives fail, not pass"),
        ("LONGEST_GAP_MS", 999.0, "residency gap of 1000 ms in 2000: 1000.0 gives inconclusive"),
        ("MIB", 2**19, "residency L2 MiB: "),
    ],
)
def test_a_layer_of_residency_that_turns_elsewhere_is_found(
    monkeypatch: pytest.MonkeyPatch, constant: str, value: float, said: str
) -> None:
    monkeypatch.setattr(f"pytest_gates.checks.layers.{constant}", value)
    assert said in str(flaw(gate("{kind: residency, require: [L2, L3, L3b, L4]}")))


def test_a_proof_says_what_was_tried() -> None:
    proof = Proof("bounded", "below 4.2", 4.2, Verdict.FAIL, Verdict.PASS)
    assert str(proof) == "bounded below 4.2: 4.2 gives pass, not fail"
