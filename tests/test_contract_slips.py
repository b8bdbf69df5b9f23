"""Loading contracts: one slip, and nothing said that only follows from it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from loading import RUN, gate, refused
from test_contract_refused import FALSIFIER, FINITE


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("kind: finite", "kind: finit", "14:16: unknown check `finit`; did you mean `finite`?"),
        (
            "[train_loss]",
            "[loss]",
            (
                "14:34: `metrics`: unregistered metric 'loss'; did you mean `train_loss` or "
                "`val_loss` or `epoch_loss`?"
            ),
        ),
        ("checks:", "check:", "13:5: unknown key `check`; did you mean `checks`?"),
        ("id: P", "id: G", "15:9: duplicate id `G`; it stands in line 11 already"),
        ("runs:", "run:", "1:1: unknown key `run`; did you mean `runs`?"),
        ("gates:", "gate:", "10:1: unknown key `gate`; did you mean `gates`?"),
        ("gates:", "claims:", "10:1: unknown key `claims`; did you mean `gates`?"),
        ("falsification_tests", "falsifiers", "16:1: unknown key `falsifiers`; did you mean `fals"),
        ("binds_to", "bind_to", "18:5: unknown key `bind_to`; did you mean `binds_to`?"),
        ("inject:", "injects:", "19:5: unknown key `injects`; did you mean `inject`?"),
        ("inject: {", "# {", "20:13: a falsifier with `expect` needs `inject: {fault: ...}`"),
    ],
)
def test_one_mistake_is_one_line_and_what_only_follows_from_it_is_not_said(
    old: str, new: str, told: str
) -> None:
    text = (FINITE + FALSIFIER).replace(old, new)
    (said,) = refused(text, RUN.replace(old, new))
    assert said.startswith(told)


@pytest.mark.parametrize("slips", [["base"], ["other"], ["base", "other"]])
def test_a_slip_in_a_run_is_not_told_again_by_who_shortens_it(slips: list[str]) -> None:
    other = "  other: {from: base, seed: 1}\n"
    compared = "      - {kind: equal_runs, of: [base, other], metrics: [train_loss]}\n"
    both = gate("{kind: finite, metrics: [train_loss]}") + compared
    shortened = FALSIFIER.replace("expect:", "shorten: {steps: 20}\n    expect:")
    runs = RUN + other
    for name in slips:
        runs = runs.replace("steps:", "stepz:") if name == "base" else runs.replace("seed", "sead")
    told = refused(both + shortened, runs)
    assert [line.split("; ")[0].split(": ")[1] for line in told] == [
        f"unknown key `{'stepz' if name == 'base' else 'sead'}`" for name in slips
    ]


def test_a_list_under_a_key_of_its_authors_is_prose_where_nothing_in_it_is_executable() -> None:
    prose = "falsifiers:\n  - {id: F, inject: a NaN, checks: [finite]}\n  - words\n"
    assert refused(prose) == []


EVERYTHING = """\
contract_id: C-ALL
version: 1.0.0
status: ACTIVE
runs:
  base:
    driver: pretrain
    device: cpu
    model: {hidden: 32, layers: 2, heads: 2, kv_heads: 2, intermediate: 64, vocab: 300, tied: false}
    data: {corpus: python-stdlib, tokenizer: bytes, validation: 0.1}
    seq_len: 32
    batch_size: 4
    steps: 40
    epochs: 2
    validate_every: 20
    checkpoint: epoch
    optimizer: {lr: 1.0e-3, warmup_steps: 4}
  killed: {from: base, stimulus: {kind: kill, step: 30}}
  resumed: {from: base, resume: {run: killed, epoch: last}}
  other: {from: base, seed: 1}
gates:
  - id: G-1
    rule: Finite.
    run: base
    checks:
      - {kind: finite, metrics: [train_loss]}
      - {kind: budget, metric: grad_norm, steps: [10, 39], statistic: median, below: 100}
    ship_blocking: true
    verdict: pending
  - id: G-2
    rule: Seeds differ, and what resumes goes on alike.
    checks:
      - {kind: equal_runs, of: [base, other], metrics: [train_loss], expect: differ}
      - {kind: equal_runs, of: [base, resumed], metrics: [train_loss], steps: [20, 39]}
    verdict: pending
falsification_tests:
  - id: F-1
    rule: NaN.
    binds_to: G-1
    inject: {fault: nan_step, step: 5}
    shorten: {batch_size: 2}
    expect: {verdict: fail, check: finite}
    if_fails: NaN is no finding
  - id: F-2
    rule: The seed is ignored.
    binds_to: G-2
    inject: {fault: seed_ignored}
    shorten: {batch_size: 2}
    expect: {verdict: fail, check: equal_runs, where: {expect: differ}}
    if_fails: one seed passes for another
"""
RUNS = {"base", "killed", "resumed", "other"}


def misspelt_keys() -> Iterator[str]:
    """The contract with one key less its last letter, or with a letter more; each key once."""
    for key in re.finditer(r"(?m)(?<=[ {])([a-z_]{4,})(?=:\s)", EVERYTHING):
        word = key[1]
        for slip in (word[:-1], word + "x") if word not in RUNS else ():
            yield EVERYTHING[: key.start()] + slip + EVERYTHING[key.end() :]


def test_the_contract_whose_keys_are_misspelt_is_a_good_one() -> None:
    assert refused(EVERYTHING, "") == []
    assert len(list(misspelt_keys())) > 100


def test_a_misspelt_key_is_told_in_one_line_and_no_second() -> None:
    told = {text: refused(text, "") for text in misspelt_keys()}
    assert [lines for lines in told.values() if len(lines) != 1] == []
