"""Loading contracts: one slip, and nothing said that only follows from it."""

from __future__ import annotations

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
