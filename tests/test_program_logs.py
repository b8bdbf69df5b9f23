"""What programs write already: real files of the real tools, their names and units mapped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loading import gate, refused
from project import Project

from pytest_gates.errors import EvidenceError
from pytest_gates.model.sources import RecordedFile
from pytest_gates.readers.contents import Contents
from pytest_gates.readers.sources import READERS, ROW_READERS, read_source

DATA = Path(__file__).parent / "data"
STEPS = 8


def read(name: str, format: str, folder: Path = DATA, **source: Any) -> Contents:  # noqa: A002
    declared = RecordedFile.model_validate({"path": name, "format": format, **source})
    return read_source(declared, (folder / name).read_bytes(), name)


def text(content: str | bytes, format: str, **source: Any) -> Contents:  # noqa: A002
    data = content if isinstance(content, bytes) else content.encode()
    declared = RecordedFile.model_validate({"path": "log", "format": format, **source})
    return read_source(declared, data, "log")


def steps(contents: Contents, metric: str) -> list[Any]:
    return [line.get(metric) for line in contents.lines if line["kind"] == "step"]


def tells_everything(folder: Path) -> None:
    """The four tools' files under their own names; also read when they are made anew."""
    state = read("trainer_state.json", "trainer-state", folder)
    assert steps(state, "step") == list(range(STEPS))
    assert all(3 < loss < 4 for loss in steps(state, "train_loss"))
    assert steps(state, "lr")[:2] == [5e-05, 4.375e-05]
    assert steps(state, "tokens") == [32 * (step + 1) for step in range(STEPS)]
    assert all(norm > 0 for norm in steps(state, "grad_norm"))
    epochs = [line for line in state.lines if line["kind"] == "epoch"]
    assert [(one["epoch"], one["step"]) for one in epochs] == [(0, 3), (1, 7)]

    csv = read("metrics.csv", "lightning-csv", folder, fields={"train_loss": "loss"})
    assert steps(csv, "step") == list(range(STEPS))
    assert steps(csv, "train_loss") == sorted(steps(csv, "train_loss"), reverse=True)
    assert len([line for line in csv.lines if line["kind"] == "epoch"]) == 2

    events = read("events.tfevents", "tensorboard", folder, fields={
        "train_loss": "loss/train", "wall_ms": {"field": "seconds", "unit": "s"},
        "grad_norm": "newer/style"})  # fmt: skip
    assert steps(events, "train_loss") == pytest.approx([4 / (1 + n) for n in range(STEPS)])
    assert steps(events, "wall_ms") == [250.0] * STEPS
    assert steps(events, "grad_norm") == [step + 0.5 for step in range(STEPS)]
    assert events.fields is not None
    assert set(events.fields.names) == {
        "loss/train", "newer/style", "seconds", "step", "wall_time"
    }  # fmt: skip

    log = read("mlperf.log", "mllog", folder, fields={
        "tokens_per_sec": "tracked_stats.throughput",
        "wall_ms": {"field": "time_ms", "unit": "ms", "difference": True}})  # fmt: skip
    assert steps(log, "train_loss") == [4 / (1 + n) for n in range(STEPS)]
    assert steps(log, "tokens_per_sec") == [1000.0 + n for n in range(STEPS)]
    assert steps(log, "wall_ms")[0] is None
    assert all(wall >= 0 for wall in steps(log, "wall_ms")[1:])
    assert log.status is None


def test_files_of_the_real_tools() -> None:
    tells_everything(DATA)


@pytest.mark.slow
def test_files_that_the_installed_tools_make_now(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, DATA / "make.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    tells_everything(tmp_path)


def test_every_format_has_a_reader() -> None:
    formats = RecordedFile.model_fields["format"].annotation.__args__  # type: ignore[union-attr]
    assert {*READERS, *ROW_READERS} == set(formats)


def test_names_and_units_of_a_log_of_ones_own() -> None:
    rows = [{"iter": n + 1, "train": {"loss_bits": 2.0}, "dt": 0.25, "mem": 2**21, "clock": 5.0 * n}
            for n in range(3)]  # fmt: skip
    log = "\n".join(map(json.dumps, rows))
    found = text(log, "jsonl", first_step=1, fields={
        "step": "iter",
        "train_loss": {"field": "train.loss_bits", "unit": "bits"},
        "wall_ms": {"field": "dt", "unit": "s"},
        "memory_mib": {"field": "mem", "unit": "B"},
        "gpu_ms": {"field": "clock", "unit": "ms", "difference": True},
    })  # fmt: skip
    assert found.lines[1] == {
        "kind": "step", "step": 1, "train_loss": pytest.approx(1.3862943611198906),
        "wall_ms": 250.0, "memory_mib": 2.0, "gpu_ms": 5.0,
    }  # fmt: skip
    assert "gpu_ms" not in found.lines[0]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85"])
def test_what_only_looks_like_an_end_of_a_line_stays_in_its_text(inside: str) -> None:
    rows = [{"step": n, "loss": 1.0, "sample": f"a{inside}b"} for n in range(2)]
    log = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert steps(text(log, "jsonl", fields={"train_loss": "loss"}), "train_loss") == [1.0, 1.0]
    table = text(f"step,train_loss,sample\r0,1,a{inside}b\r1,2,c\r", "csv")
    assert steps(table, "train_loss") == [1.0, 2.0]


def test_csv_with_a_row_a_step_and_what_is_not_finite() -> None:
    found = text("step,train_loss,who\n0,1.5,a\n1,NaN,b\n2,-inf,c\n", "csv")
    assert steps(found, "train_loss") == [1.5, "NaN", "-Infinity"]


@pytest.mark.parametrize(
    ("format", "content", "wrong"),
    [
        ("csv", "", "log:1: expected a header"),
        ("csv", "step,loss\n0\n", "log:2: 1 cells, the header has 2"),
        ("csv", "step,train_loss\n0,much\n", "log:2: train_loss 'much' is no number"),
        ("csv", "step,train_loss\n0.5,1\n", "log:2: step '0.5' is no step"),
        ("csv", "step,train_loss\n0,1\n0,2\n", "log:3: step 0: train_loss is told a second time"),
        ("trainer-state", "[]", "log: not a JSON object"),
        ("trainer-state", "{}", "no trainer_state.json"),
        ("trainer-state", '{"log_history": [{"step": 0, "loss": 1}]}', "a whole number from 1 on"),
        ("mllog", "nothing of the kind", "no line is marked :::MLLOG"),
        ("mllog", ":::MLLOG {", "log:1: not JSON behind :::MLLOG"),
        ("mllog", ":::MLLOG {}", "log:1: no object with a key"),
        ("tensorboard", "these are no records of events", "no record of an event file at byte 0"),
        ("tensorboard", "", "no record of an event file"),
    ],
)
def test_what_is_malformed_is_said_at_its_place(format: str, content: str, wrong: str) -> None:  # noqa: A002
    with pytest.raises(EvidenceError, match=wrong.replace("[", r"\[")):
        text(content, format)


def test_an_event_file_that_is_damaged_or_cut_off() -> None:
    data = (DATA / "events.tfevents").read_bytes()
    fields = {"train_loss": "loss/train"}
    cut = text(data[:-40], "tensorboard", fields=fields)
    assert steps(cut, "train_loss") == steps(text(data, "tensorboard", fields=fields), "train_loss")
    damaged = bytearray(data)
    damaged[200] ^= 1
    with pytest.raises(EvidenceError, match=r"is damaged|no record of an event file"):
        text(bytes(damaged), "tensorboard")


def test_mlperf_tells_that_a_run_was_aborted() -> None:
    line = {"key": "run_stop", "value": None, "metadata": {"status": "aborted"}, "time_ms": 1}
    found = text(f"some noise\n:::MLLOG {json.dumps(line)}\n", "mllog")
    assert (found.status, found.reason) == ("ABORTED", "run_stop says aborted")


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("{format: csv, fields: {wall_ms: dt}}", "wall_ms: declare the unit of 'dt', one of ms, s"),
        ("{format: csv, fields: {wall_ms: {field: dt, unit: B}}}", "cannot be told in 'B'"),
        ("{format: csv, fields: {train_los: loss}}", "did you mean train_loss?"),
        ("{format: csv, fields: {epoch: epoch}}", "epoch is no metric that a field can tell"),
        ("{format: json, fields: {train_loss: loss}}", "format json has names of its own"),
    ],
)
def test_what_a_mapping_cannot_mean_is_refused_at_its_place(
    project: Project, source: str, wrong: str
) -> None:
    project.contract(f"""
        contract_id: C-X
        runs:
          log: {{driver: recorded, files: [{{path: a.csv, {source[1:-1]}}}]}}
        """)
    done = project.run()
    assert wrong in done.stdout.str()
    assert "claims.yaml:3:" in done.stdout.str()


GATE = """
    contract_id: C-LOG
    runs:
      log: {{driver: recorded, files: [{{path: log.csv, format: csv, fields: {fields}}}]}}
    gates:
      - id: GATE-LOG
        run: log
        checks: [{{kind: finite, metrics: [train_loss]}}, {{kind: not_constant, metric: {asked}}}]
        verdict: pending
    """


def test_a_recording_is_judged_under_its_own_names(project: Project) -> None:
    rows = "".join(f"{n},{5 - n / 10},{n / 7}\n" for n in range(20))
    (project.root / "log.csv").write_text(f"it,loss,norm\n{rows}", encoding="utf-8")
    fields = "{step: it, train_loss: loss, grad_norm: norm}"
    project.contract(GATE.format(fields=fields, asked="grad_norm"))
    project.run().assert_outcomes(passed=1)
    project.run("--gates-replay").assert_outcomes(passed=1)


def test_a_metric_that_is_missing_is_blocked_with_the_names_that_are_there(
    project: Project,
) -> None:
    (project.root / "log.csv").write_text("it,loss\n0,5\n1,4\n", encoding="utf-8")
    project.contract(GATE.format(fields="{step: it, train_loss: loss}", asked="grad_norm"))
    done = project.run("-rs", "--gates-strict")
    done.assert_outcomes(failed=1)
    told = "run log tells no grad_norm: log.csv holds it, loss"
    assert told in done.stdout.str()
    done = project.run("-rs")
    done.assert_outcomes(skipped=1)
    assert told in done.stdout.str()


CLOCK = """\
runs:
  base:
    driver: command
    argv: [python, train.py]
    device: cuda:0
    telemetry:
      - path: "{out}/log.csv"
        format: csv
        fields: {train_loss: loss, wall_ms: {field: clock, unit: s, difference: true}}
    declares: {steps: 60, vocab: 256, step_gflop: 0.6}
"""


@pytest.mark.parametrize(
    ("check", "column", "window"),
    [
        ("{kind: descent, drop: 0.5}", 9, "[1, 59]"),
        ("{kind: descent, steps: [0, 39]}", 32, "[1, 39]"),
        ("{kind: budget, metric: wall_ms, steps: [0, 59], below: 500}", 48, "[1, 59]"),
    ],
)
def test_a_window_of_a_clock_begins_after_the_first_step_which_has_no_time(
    check: str, column: int, window: str
) -> None:
    (said,) = refused(gate(check), CLOCK)
    assert said.startswith(f"15:{column}: ")
    assert said.endswith(
        f": wall_ms is told by `difference: true`, so step 0 has none; write steps: {window}"
    )
    later = check.replace("[0, ", "[1, ").replace("drop: 0.5", "steps: [1, 59]")
    assert refused(gate(later), CLOCK) == []
    assert refused(gate(check), CLOCK.replace(", difference: true", "")) == []
