"""The timeline of a gate on the command line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from test_ledger import record

from pytest_gates import cli, timeline
from pytest_gates.canonical import canonical
from pytest_gates.checks.base import Verdict
from pytest_gates.commands.history import sparkline
from pytest_gates.ledger import Ledger


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three judgements of a gate, the middle one a failure on another torch; and another gate."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ledger = Ledger(tmp_path / "evidence")
    parents: tuple[str, ...] = ()
    for day, value, verdict, gpu in (
        (1, 41.0, Verdict.PASS, "NVIDIA H200"),
        (2, 71.0, Verdict.FAIL, "NVIDIA H200"),
        (3, 44.0, Verdict.PASS, "NVIDIA GeForce RTX 4090"),
    ):
        observed = {"check": "budget", "verdict": str(verdict), "figure": f"median {value:g} ms",
                    "limit": "< 60 ms", "value": value, "headroom_pct": 1.5}  # fmt: skip
        parents = (
            ledger.append(record(time=f"2026-01-0{day}T10:00:00Z", verdict=verdict, gpu=gpu,
                                 observed=(observed,), parents=parents)),
        )  # fmt: skip
    ledger.append(record(subject="OTHER", time="2026-01-04T10:00:00Z"))
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Days of the judgements that are told."""
    assert cli.main(["history", *arguments, "--json"]) == 0
    return [row["time"][8:10] for row in json.loads(capsys.readouterr().out)]


@pytest.mark.usefixtures("root")
def test_a_gate_is_told_from_old_to_new_with_what_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["history", "G"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "C::G"
    assert lines[1].startswith("  ▁█▂  41 to 71, the last 3")
    assert [line.split()[1] for line in lines[3:]] == ["pass", "fail", "pass"]
    assert lines[4].endswith("pass -> fail")
    assert "median 71 ms" in lines[4]
    assert "+1.5 %" in lines[4]


@pytest.mark.usefixtures("root")
def test_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys) == ["01", "02", "03", "04"]
    assert asked(capsys, "C::G") == ["01", "02", "03"]
    assert asked(capsys, "G", "--gpu", "h200") == ["01", "02"]
    assert asked(capsys, "G", "--since", "2026-01-02") == ["02", "03"]
    assert asked(capsys, "G", "--until", "2026-01-02") == ["01", "02"]
    assert asked(capsys, "G", "--verdict", "fail") == ["02"]
    assert asked(capsys, "G", "--gpu", "cpu") == []


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("typed", ["yesterday", "2026-13-01", "20260102", "2026-01-02T10:00+02:00"])
def test_what_is_no_day_in_utc_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["history", "--since", typed])
    assert stopped.value.code == 2
    assert f"--since: '{typed}' is no day and no time in UTC" in capsys.readouterr().err


@pytest.mark.usefixtures("root")
def test_filters_that_leave_nothing_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history", "G", "--since", "2026-01-04T00:00:00Z"]) == 0
    assert capsys.readouterr().out == "no record is left by these filters\n"


def test_a_falsifier_is_told_in_the_words_of_a_session(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, parents = Ledger(root / "evidence"), ()
    for day, verdict in ((5, Verdict.FAIL), (6, Verdict.PASS)):
        time = f"2026-01-0{day}T10:00:00Z"
        changes = {"kind": "falsifier", "subject": "FALSIFY-G", "verdict": verdict}
        parents = (ledger.append(record(time=time, parents=parents, **changes)),)
    assert cli.main(["history", "FALSIFY-G"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[1] for line in lines] == ["SURVIVED", "CAUGHT"]
    assert lines[1].endswith("SURVIVED -> CAUGHT")
    assert cli.main(["history"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "FALSIFY-G" in one]
    assert "CAUGHT" in line.split()
    assert cli.main(["history", "FALSIFY-G", "--verdict", "fail", "--json"]) == 0
    assert [one["verdict"] for one in json.loads(capsys.readouterr().out)] == ["fail"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("OTEHR", "no record of OTEHR; did you mean `OTHER`?\n"),
        ("C::OTHR", "no record of C::OTHR; did you mean `C::OTHER`?\n"),
        ("NOWHERE", "no record of NOWHERE\n"),
    ],
)
@pytest.mark.usefixtures("root")
def test_an_id_without_a_record_is_answered_with_the_one_that_was_meant(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["history", typed]) == 1
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("root")
def test_csv_has_a_row_a_judgement(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history", "G", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["figure"] for row in rows] == ["median 41 ms", "median 71 ms", "median 44 ms"]


@pytest.mark.usefixtures("root")
def test_all_gates_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history"]) == 0
    told = capsys.readouterr().out
    assert "\nC\n  G      3        ▁█▂" in told
    assert "\n  OTHER  1" in told
    assert cli.main(["history", "NOWHERE"]) == 1


def test_lines_are_below_their_contract_and_falsifiers_behind_its_gates(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(root / "evidence")
    ledger.append(record(subject="A-FAULT", kind="falsifier", time="2026-01-04T10:00:00Z"))
    ledger.append(record(contract="B", subject="G", time="2026-01-04T10:00:00Z"))
    assert cli.main(["history"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  1")[0].rstrip() for line in lines if "3        " not in line] == [
        "B", "  G", "C", "  OTHER", "    A-FAULT",
    ]  # fmt: skip
    assert lines[1].endswith("  2026-01-04T10:00")
    assert head.split() == ["gate", "records", "figures", "newest", "measured", "gpu", "when"]


def test_two_processes_read_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = sorted(timeline.read_entries(root / "evidence"))
    monkeypatch.setattr(timeline, "ALONE", 0)
    assert sorted(timeline.read_entries(root / "evidence")) == alone
    assert len(alone) == 4


def test_an_id_beyond_ascii_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger(root / "evidence").append(record(subject="GÄTE-√1", time="2026-01-05T10:00:00Z"))
    assert asked(capsys, "GÄTE-√1") == ["05"]


def test_a_sparkline_of_equal_values_is_flat() -> None:
    assert sparkline([]) == ""
    assert sparkline([3.0, 3.0]) == "▁▁"


@pytest.mark.parametrize(
    "odd",
    [
        {"observed": [{"verdict": "pass", "figure": ["a", "list"]}]},
        {"observed": [{"verdict": "pass", "headroom_pct": "much"}]},
        {"time": ["2026"]},
        {"subject": {"of": "another"}, "verdict": "pass"},
        {"parents": [["a"]]},
        {"host": {"gpu": 7, "driver": None, "torch": None, "declared": False}},
    ],
)
def test_a_record_of_other_types_is_one_line_that_leads_to_the_audit(
    root: Path, capsys: pytest.CaptureFixture[str], odd: dict[str, Any]
) -> None:
    """Nothing is proven here, so anything may lie there."""
    sound = json.loads(next((root / "evidence/records").glob("*/*.json")).read_bytes())
    data = canonical(sound | odd)
    name = hashlib.sha256(data).hexdigest()
    (root / "evidence" / "records" / name[:2]).mkdir(exist_ok=True)
    (root / "evidence" / "records" / name[:2] / f"{name}.json").write_bytes(data)
    assert cli.main(["history"]) == 1
    told = capsys.readouterr().err
    assert told.endswith("no record; `pytest-gates audit` says what is wrong with it\n")
    assert told.count("\n") == 1


def test_bars_reach_from_one_end_of_the_doubles_to_the_other() -> None:
    assert sparkline([-1.7e308, 0.0, 1.7e308]) == "▁▅█"
