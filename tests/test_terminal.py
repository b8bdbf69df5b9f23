"""The impact table and the tally, from results as a session hands them over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_gates.report.terminal import HEAD, MANY, column_widths, listed, table_row, tally
from pytest_gates.results import Mode, Result, Status

PASSED = Result(
    kind="gate",
    contract="contracts/a.yaml",
    contract_id="C-A",
    subject="GATE-1",
    line=3,
    status=Status.PASS,
    mode=Mode.LIVE,
    prior="pending",
    figure="median 45.1 ms",
    limit="< 60 ms",
    headroom_pct=24.8,
)
BLOCKED = replace(
    PASSED,
    subject="GATE-2",
    status=Status.BLOCKED,
    mode=Mode.NONE,
    figure="",
    limit="",
    headroom_pct=None,
    reason="no NVIDIA GPU on this machine",
)


def test_a_row_shows_figure_limit_and_headroom() -> None:
    assert table_row(PASSED) == (
        "GATE-1", "pending", "PASS", "LIVE", "median 45.1 ms", "< 60 ms", "+24.8 %",
    )  # fmt: skip


def test_attempts_before_a_pass_are_shown_with_it() -> None:
    assert table_row(replace(PASSED, attempts=1))[3] == "LIVE"
    assert table_row(replace(PASSED, attempts=4))[3] == "LIVE, attempt 4"


def test_blocked_gates_have_no_figure_and_their_reason_is_told_once() -> None:
    again = replace(BLOCKED, subject="GATE-3")
    assert table_row(BLOCKED)[2:] == ("BLOCKED", "-", "", "", "")
    lines = tally([PASSED, BLOCKED, again])
    assert lines[0] == "gates: 3 (2 BLOCKED, 1 PASS)"
    assert lines[-1] == "BLOCKED 2: no NVIDIA GPU on this machine"


def test_the_tally_counts_worst_first_and_replays_apart() -> None:
    results = [
        PASSED,
        replace(PASSED, mode=Mode.REPLAYED),
        replace(PASSED, status=Status.FAIL),
        replace(PASSED, status=Status.UNFOUNDED, mode=Mode.NONE),
    ]
    assert tally(results)[0] == "gates: 4 (1 UNFOUNDED, 1 FAIL, 1 PASS replayed, 1 PASS)"


def test_gates_never_seen_red_are_named_up_to_three() -> None:
    gates = [replace(PASSED, subject=f"GATE-{number}") for number in range(5)]
    armed = [*gates[:4], replace(gates[4], armed_by=("FALSIFY-4",))]
    assert tally(armed)[1] == "seen red: 1 of 5 gates; UNARMED: GATE-0, GATE-1, GATE-2 and 1 more"
    assert tally([armed[4]])[1] == "seen red: 1 of 1 gates"


def test_prose_is_counted_and_nothing_else() -> None:
    prose = replace(BLOCKED, prose=True, reason="nothing executable")
    assert tally([prose]) == ["gates: 1", "prose only, nothing executable: 1"]
    both = [prose, replace(prose, kind="falsifier"), replace(prose, kind="falsifier")]
    assert tally(both) == ["gates: 1", "prose only, nothing executable: 1, and 2 falsifiers"]


def test_prose_that_claims_a_verdict_is_counted_by_it() -> None:
    claim = replace(BLOCKED, prose=True, status=Status.UNFOUNDED, red=True)
    assert tally([claim])[0] == "gates: 1 (1 UNFOUNDED)"


def test_a_cause_of_doubt_is_told_once_with_the_gates_that_it_concerns() -> None:
    doubtful = [
        replace(PASSED, subject=f"GATE-{number}", suspect=("torch: 2.11.0 -> 2.13.0",))
        for number in range(5)
    ]
    doubtful[0] = replace(doubtful[0], suspect=(*doubtful[0].suspect, "driver: 1 -> 2"))
    assert [line for line in tally(doubtful) if line.startswith("SUSPECT")] == [
        "SUSPECT: GATE-0, GATE-1, GATE-2 and 2 more: torch: 2.11.0 -> 2.13.0",
        "SUSPECT: GATE-0: driver: 1 -> 2",
    ]


def test_where_rows_are_many_the_table_stays_one_of_gates() -> None:
    gates = [replace(PASSED, subject=f"GATE-{number}") for number in range(MANY // 2)]
    caught = replace(PASSED, kind="falsifier", status=Status.CAUGHT)
    blocked = replace(BLOCKED, kind="falsifier")
    survived = replace(caught, status=Status.SURVIVED, red=True)
    few = [*gates, *[caught] * (MANY // 2)]
    assert listed(few) == few
    assert listed([*few, blocked, survived]) == [*gates, survived]
    failed = replace(PASSED, status=Status.FAIL, red=True)
    assert listed([*gates, *gates, BLOCKED, failed, caught]) == [BLOCKED, failed]


@pytest.mark.parametrize(
    ("available", "measured", "limit"),
    [(200, 44, 30), (100, 25, 30), (80, 14, 21), (40, 14, 14)],
)
def test_long_columns_give_way_to_the_terminal_and_short_ones_stay(
    available: int, measured: int, limit: int
) -> None:
    row = table_row(replace(PASSED, figure="f" * 70, limit="l" * 30))
    widths = column_widths([row], available)
    assert (widths[4], widths[5]) == (measured, limit)
    stiff = [index for index in range(len(HEAD)) if index not in {4, 5}]
    assert [widths[i] for i in stiff] == [max(len(HEAD[i]), len(row[i])) for i in stiff]
