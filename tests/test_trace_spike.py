"""The first slot that leaps: named in the field's own table, and in none that does not leap."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from builders import evidence
from pydantic import ValidationError

from pytest_gates.checks.base import Outcome, Verdict
from pytest_gates.checks.slots import Slot, slots_of
from pytest_gates.checks.trace_spike import TraceSpike, find_anomaly, look
from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Evidence, Series
from pytest_gates.evidence_store import read_evidence
from pytest_gates.model.config import RecordedRun
from pytest_gates.readers.recorded import adopt
from pytest_gates.readers.trace_csv import read_trace_csv

FIELD = Path(__file__).parents[2] / "shared" / "field" / "sub-ffn-per-layer-stds.csv"


def recorded(folder: Path, table: bytes) -> Evidence:
    (folder / "table.csv").write_bytes(table)
    run = RecordedRun.model_validate(
        {"driver": "recorded", "files": [{"path": "table.csv", "format": "trace-csv"}]}
    )
    sealed = adopt(folder, run, folder / "sealed")
    return read_evidence(folder, sealed.relative_to(folder).as_posix())


def spike(of: Evidence, **said: Any) -> Outcome:
    return TraceSpike.model_validate({"kind": "trace_spike", **said}).evaluate(of)


def trace(**columns: list[float]) -> Evidence:
    layers = range(len(next(iter(columns.values()))))
    rows = [(layer, name) for layer in layers for name in columns]
    series = Series(
        {
            "layer": tuple(float(layer) for layer, _ in rows),
            "slot": tuple(name for _, name in rows),
            "std": tuple(columns[name][layer] for layer, name in rows),
        }
    )
    return evidence(slots=series)


@pytest.mark.skipif(not FIELD.exists(), reason="the field's files are not here")
def test_the_fields_table_is_read_and_its_anomaly_named(tmp_path: Path) -> None:
    said = recorded(tmp_path, FIELD.read_bytes())
    outcome = spike(said)
    assert outcome.verdict is Verdict.FAIL
    assert outcome.figure == "layer 3 ffn_swigl 17.2-fold"
    assert "precursor layer 3 ffn_silu 3.22-fold; cascade layer 3 ffn_out 53-fold" in (
        outcome.summary
    )
    found = find_anomaly(slots_of(said), "std", 5.0, 5.0)
    assert found is not None
    assert found.first.ratio == pytest.approx(1.2216 / 0.0709)
    assert [one.slot.at for one in found.precursors] == ["layer 3 ffn_silu"]
    assert [one.slot.at for one in found.cascade] == ["layer 3 ffn_out"]


def test_a_leap_needs_both_measures() -> None:
    steady = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]
    assert spike(trace(q=steady)).verdict is Verdict.PASS
    slowly = [2.0**layer for layer in range(12)]
    assert spike(trace(q=slowly)).verdict is Verdict.PASS
    from_a_dip = [1.0, 1.1, 0.1, 1.0, 1.05, 0.95]
    assert spike(trace(q=from_a_dip)).verdict is Verdict.PASS
    assert spike(trace(q=[*steady, 9.0])).figure == "layer 6 q 9.47-fold"


def test_layers_that_are_left_out_hide_no_leap(tmp_path: Path) -> None:
    """A leap is seen from the last layer that is there; without one, a gap decides nothing."""
    rows = [f"{layer},{9.0 if layer == 3 else 1.0},{1.0 + layer / 10}" for layer in range(6)]

    def judged(rows: list[str]) -> Outcome:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        table = "\n".join(("layer,ffn_silu,ffn_swigl", *rows))
        return spike(recorded(folder, table.encode()))

    for left_out in (0, 2):
        found = judged(rows[:left_out] + rows[left_out + 1 :])
        assert (found.verdict, found.slot) == (Verdict.FAIL, "layer 3 ffn_silu")
    rows[3] = "3,,1.3"
    found = judged(rows)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.summary == "the trace tells no std of layer 3 ffn_silu"
    rows[3] = "3,1.0,1.3"
    assert judged(rows).verdict is Verdict.PASS
    assert judged(rows[1:]).verdict is Verdict.PASS  # some count layers from 1


@pytest.mark.parametrize("layer", range(6))
def test_a_leap_is_named_in_whichever_layer_it_is(layer: int) -> None:
    """The first one has none before it, the last one none after it."""
    figures = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9]
    figures[layer] = 40.0
    outcome = spike(trace(ffn_up=[1.0] * 6, ffn_out=figures))
    assert (outcome.verdict, outcome.slot) == (Verdict.FAIL, f"layer {layer} ffn_out")


def test_a_statistic_below_zero_is_none() -> None:
    outcome = spike(trace(ffn_out=[1.0, 1.0, -9.0, 1.0, 1.0, 1.0]))
    assert (outcome.verdict, outcome.slot) == (Verdict.FAIL, "layer 2 ffn_out")
    assert outcome.summary == "std of layer 2 ffn_out is -9"


def test_a_table_is_in_the_order_of_the_pass_however_its_rows_lie() -> None:
    """A spreadsheet sorts rows by a column, and a script lists them last layer first."""
    wild = {(2, "ffn_up"): 50.0, (4, "ffn_gate"): 900.0}
    rows = [
        f"{layer},{slot},{wild.get((layer, slot), 1.0)}"
        for layer in range(6)
        for slot in ("ffn_gate", "ffn_up")
    ]
    rows += ["-1,logits,3.0"]
    for order in (rows, rows[::-1], sorted(rows, key=lambda row: row.rpartition(",")[2])):
        table = "\n".join(("layer,slot,std", *order)).encode()
        said = [dict(line) for line in read_trace_csv(table, "t.csv").lines]
        assert [one["layer"] for one in said] == [*(n // 2 for n in range(12)), -1]
        slots = [Slot(one["layer"], one["slot"], {"std": one["std"]}) for one in said]
        seen = look(slots, "std", 5.0, 5.0)
        assert seen.anomaly is not None
        assert seen.anomaly.first.slot.at == "layer 2 ffn_up"


def test_the_first_slot_in_the_order_of_the_pass_is_named() -> None:
    early, late = [1.0, 1.0, 1.0, 9.0, 1.0, 1.0], [1.0, 1.0, 1.0, 99.0, 1.0, 1.0]
    assert spike(trace(ffn_up=early, ffn_out=late)).figure == "layer 3 ffn_up 9-fold"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_figure_is_a_leap(value: float) -> None:
    outcome = spike(trace(q=[1.0, 1.0, value, 1.0, 1.0]))
    assert (outcome.verdict, outcome.figure) == (Verdict.FAIL, "layer 2 q")


def test_what_cannot_decide_is_inconclusive() -> None:
    assert spike(trace(q=[1.0, 1.0, 1.0])).verdict is Verdict.INCONCLUSIVE
    assert spike(evidence()).verdict is Verdict.INCONCLUSIVE
    assert spike(trace(q=[1.0] * 9), statistic="rms").verdict is Verdict.INCONCLUSIVE
    with pytest.raises(ValidationError, match="no statistic that leaps"):
        spike(evidence(), statistic="mean")


def test_both_forms_of_a_table_say_the_same() -> None:
    wide = read_trace_csv(b"layer,ffn_out,q\n0,2,1\n1,4,3\n", "t.csv").lines
    long = b"layer,slot,std\n0,q,1\n0,ffn_out,2\n1,q,3\n1,ffn_out,4\n"
    assert read_trace_csv(long, "t.csv").lines == wide
    assert [line["slot"] for line in wide] == ["q", "ffn_out"] * 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "t.csv:1: expected a header"),
        (b"step,loss\n1,2\n", "t.csv:1: expected a header"),
        (b"layer,q,q\n", "t.csv:1: expected a header"),
        (b"layer,q\n", "t.csv: holds no layer"),
        (b"layer,q\n0,1\n1\n", "t.csv:3: 1 cells, the header has 2"),
        (b"layer,q\nx,1\n", "t.csv:2: layer 'x' is no whole number"),
        (b"layer,q\n-2,1\n", "t.csv:2: layer -2 is below -1"),
        (b"layer,q\n0,big\n", "t.csv:2: q: 'big' is no number"),
        (b"layer,q\n0,1\n0,2\n", "t.csv: layer 0 q is told twice"),
        (b"\xff\xfe", "t.csv: not a CSV file"),
    ],
)
def test_a_bad_table_is_one_clear_line(table: bytes, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_trace_csv(table, "t.csv")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
