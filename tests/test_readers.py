from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Artifact, Evidence, Telemetry
from pytest_gates.evidence_store import read_evidence
from pytest_gates.model.config import Declared, DeclaredHost, RecordedFile, RecordedRun
from pytest_gates.model.telemetry import METRICS, encode_line
from pytest_gates.readers.artifacts import parse
from pytest_gates.readers.json_report import read_json_report
from pytest_gates.readers.jsonl import read_jsonl
from pytest_gates.readers.nvidia_smi import read_nvidia_smi
from pytest_gates.readers.recorded import adopt
from pytest_gates.readers.telemetry import parse_telemetry
from pytest_gates.schema import TELEMETRY
from pytest_gates.schema.telemetry import telemetry_schema


def parse_artifacts(text: str, place: str) -> tuple[Artifact, ...]:
    return parse(text.encode(), place)


FIELD = Path(__file__).parents[2] / "shared" / "field"
needs_field = pytest.mark.skipif(not FIELD.is_dir(), reason="the field's recordings are not here")
REPORT = "rtx4090-370m-seq512-100step.stdout.json"
LINES = "rtx4090-370m-seq512-100step.jsonl"
SAMPLES = "nvidia-smi-during-run.csv"


# --- telemetry ----------------------------------------------------------------------------------

STEP = {"kind": "step", "step": 0}


def test_lines_of_every_kind_are_read() -> None:
    lines: list[dict[str, Any]] = [
        {"kind": "event", "event": "model_built", "step": None, "parameters": 5},
        {"kind": "step", "step": 0, "train_loss": 5.5, "gpu_ms": None, "mood": 1},
        {"kind": "step", "step": 1, "train_loss": math.nan},
        {"kind": "epoch", "epoch": 0, "step": 2, "val_loss": 5.25, "val_tokens": 128},
        {"kind": "fact", "name": "parameters", "value": 373_509_120},
        {"kind": "slot", "layer": -1, "slot": "embedding", "std": 0.5},
        {"kind": "property", "name": "causality", "examples": 20, "counterexample": {"at": 3}},
    ]
    data = "".join(map(encode_line, lines)).encode()
    telemetry, notes = parse_telemetry(data, "t.jsonl")
    steps = telemetry.steps.columns
    assert (steps["step"], steps["gpu_ms"]) == ((0.0, 1.0), (None, None))
    assert steps["train_loss"][0] == 5.5
    assert math.isnan(float(steps["train_loss"][1] or 0))
    assert "grad_norm" not in steps
    assert telemetry.epochs.columns["val_loss"] == (5.25,)
    assert telemetry.slots.columns["slot"] == ("embedding",)
    assert telemetry.events[0].detail == {"parameters": 5}
    assert telemetry.facts == {"parameters": 373_509_120}
    assert telemetry.properties["causality"].counterexample == {"at": 3}
    assert notes == ("t.jsonl: unregistered keys were left out: mood",)


@given(st.lists(st.floats(), min_size=1))
def test_every_float_survives_bit_for_bit(values: list[float]) -> None:
    lines = ({"kind": "step", "step": i, "train_loss": value} for i, value in enumerate(values))
    telemetry, _ = parse_telemetry("".join(map(encode_line, lines)).encode(), "t")
    read = [float(value) for value in telemetry.steps.columns["train_loss"] if value is not None]
    assert [value.hex() for value in read] == [value.hex() for value in values]


BAD = [
    ('{"kind":"step"}', "step: Field required"),
    ('{"kind":"step","step":-1}', "step: "),
    ('{"kind":"step","step":1.0}', "step: "),
    ('{"kind":"step","step":true}', "step: "),
    ('{"kind":"step","step":0,"train_loss":"5.5"}', "train_loss: '5.5' is no number"),
    ('{"kind":"step","step":0,"train_loss":true}', "train_loss: True is no number"),
    ('{"kind":"step","step":0,"train_loss":NaN}', 'NaN is no JSON; write "NaN"'),
    ('{"kind":"step","step":0,"train_loss":1e999}', "beyond the range of a double"),
    ('{"kind":"step","step":0,"tokens":1' + "0" * 400 + "}", "beyond the range of a double"),
    ('{"kind":"step","step":0,"step":1}', "a key is there twice"),
    ('{"kind":"step","step":1' + "0" * 400 + "}", "beyond the range of a double"),
    ('{"kind":"slot","slot":"x","layer":1' + "0" * 400 + "}", "beyond the range of a double"),
    ('{"kind":"fact","name":"x","value":[1' + "0" * 400 + "]}", "beyond the range of a double"),
    ('{"kind":"fact","name":"x","value":{"y":-1e999}}', "beyond the range of a double"),
    ('{"kind":"stp","step":0}', "kind 'stp' is none of step, epoch"),
    ('{"kind":"' + "x" * 9000 + '"}', "kind 'xxx"),
    ('{"kind":"slot","layer":-2,"slot":"x"}', "layer: "),
    ('{"kind":"property","name":"causality"}', "examples: "),
    ("[1]", "not a JSON object"),
    ("[" * 100_000, "recursion"),
    ("step 1 done", "no telemetry line"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_an_error_with_its_place(line: str, message: str) -> None:
    data = f"{json.dumps(STEP)}\n\n{line}\n".encode()
    with pytest.raises(EvidenceError) as caught:
        parse_telemetry(data, "t.jsonl", cut_off=True)
    assert str(caught.value).startswith("t.jsonl:3: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("word", ["F32[{}]", "F32[1.0]", "F32[1e999]", "F32", "[]", "F32[-1]"])
def test_a_tensor_without_a_shape_is_refused_where_artifacts_are_read(word: str) -> None:
    one = {"path": "checkpoints/a.safetensors", "bytes": 1, "sha256": "11"}
    sound = parse_artifacts(json.dumps([one | {"tensors": {"a": "BF16[2,3]", "s": "F32[]"}}]), "p")
    assert len(sound) == 1
    with pytest.raises(EvidenceError, match=r"^p: 0\.tensors\.a: "):
        parse_artifacts(json.dumps([one | {"tensors": {"a": word}}]), "p")


def test_the_last_word_on_a_fact_counts_and_a_change_is_noted() -> None:
    told = b'{"kind":"fact","name":"tied","value":true}\n'
    assert parse_telemetry(told * 2, "t") == (Telemetry(facts={"tied": True}), ())
    changed, notes = parse_telemetry(told + told.replace(b"true", b"false"), "t")
    assert changed.facts == {"tied": False}
    assert notes == ("t:2: fact tied was told otherwise before",)


def test_the_published_schema_is_the_one_the_reader_keeps() -> None:
    published = json.loads(TELEMETRY.read_text(encoding="utf-8"))
    assert published == telemetry_schema(), "run `python -m pytest_gates.schema`"
    for metric in METRICS.values():
        line = published["$defs"][f"{metric.scope.capitalize()}Line"]
        assert metric.name in line["properties"]


def test_the_published_schema_accepts_what_the_reader_accepts() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(TELEMETRY.read_text(encoding="utf-8")))
    validator.check_schema(validator.schema)
    for good in (
        STEP | {"train_loss": "NaN", "gpu_ms": None, "mine": [1]},
        {"kind": "event", "event": "run_finished"},
        {"kind": "slot", "layer": -1, "slot": "x", "std": 0.5},
    ):
        validator.validate(good)
        parse_telemetry(json.dumps(good).encode(), "t")
    for bad in (STEP | {"train_loss": "5.5"}, {"kind": "step"}, {"kind": "stp"}, [1]):
        assert not validator.is_valid(bad)
        with pytest.raises(EvidenceError):
            parse_telemetry(json.dumps(bad).encode(), "t")


# --- files of others ----------------------------------------------------------------------------


def test_json_lines_take_steps_and_published_telemetry() -> None:
    data = (
        b'{"step": 0, "train_loss": NaN, "mood": 1}\r\n\n{"kind":"event","event":"run_finished"}\n'
    )
    contents = read_jsonl(data, "run.jsonl")
    assert contents.lines == (
        {"kind": "step", "step": 0, "train_loss": "NaN"},
        {"kind": "event", "event": "run_finished"},
    )
    assert contents.notes == ("run.jsonl: unregistered keys were left out: mood",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"step": 0}\n{"train_loss": 1}\n', "run.jsonl:2: step: Field required"),
        (b'{"step": 0, "wall_ms": "fast"}', "run.jsonl:1: wall_ms: 'fast' is no number"),
        (b'{"step": 0, "wall_ms": 1e999}', "run.jsonl:1: not a line of JSON: 1e999 is beyond"),
        (b'{"step": 0}\n{"st', "run.jsonl:2: not a line of JSON"),
        (b"7\n", "run.jsonl:1: a step is not a JSON object"),
        (b"\xff\n", "run.jsonl:1: not a line of JSON"),
        (b"\n", "run.jsonl: holds no step"),
    ],
)
def test_bad_json_lines_are_named(data: bytes, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_jsonl(data, "run.jsonl")
    assert str(caught.value).startswith(message)


def test_a_report_is_found_behind_its_log() -> None:
    report = {
        "status": "ABORTED", "detail": "val_loss too high", "val_loss_history": [10.3, math.nan],
        "per_step_metrics": [{"step": 0, "train_loss": 11.0, "mood": 1}], "epochs": 0,
    }  # fmt: skip
    text = "loading {\n{not json\n{}\n" + json.dumps(report, indent=2) + "\nbye\n"
    contents = read_json_report(text.encode(), "out.json")
    assert contents.lines == (
        {"kind": "step", "step": 0, "train_loss": 11.0},
        {"kind": "epoch", "epoch": 0, "val_loss": 10.3},
        {"kind": "epoch", "epoch": 1, "val_loss": "NaN"},
    )
    assert (contents.status, contents.reason) == ("ABORTED", "val_loss too high")
    assert contents.notes == ("out.json: unregistered keys were left out: epochs, mood",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing here", "no JSON object with per_step_metrics at the start of a line"),
        ('{"per_step_metrics": [', "no JSON object with per_step_metrics"),
        ('{"per_step_metrics": 3}', "per_step_metrics is no list"),
        ('{"per_step_metrics": [], "status": "GREAT"}', "status 'GREAT' is none of COMPLETED"),
        ('{"per_step_metrics": [], "status": ["x"]}', "status ['x'] is none of COMPLETED"),
        ('{"per_step_metrics": [], "detail": 3}', "detail is no text"),
        ('{"per_step_metrics": [{"step": "1"}]}', "per_step_metrics[0]: step: "),
        ('{"per_step_metrics": [], "val_loss_history": ["x"]}', "val_loss_history[0]: val_loss: "),
    ],
)
def test_bad_reports_are_named(text: str, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_json_report(text.encode(), "out.json")
    assert str(caught.value).startswith("out.json: ")
    assert message in str(caught.value)


def test_nvidia_smi_of_processes() -> None:
    text = "pid, process_name, used_gpu_memory [MiB]\n17, /bin/a, 6636 MiB\n18, b, [N/A]\n"
    contents = read_nvidia_smi(text.encode(), "smi.csv")
    assert contents.samples is not None
    assert [(one.pid, one.used_mib) for one in contents.samples] == [(17, 6636.0), (18, None)]
    assert contents.notes == ("smi.csv: unregistered keys were left out: process_name",)


def test_nvidia_smi_of_the_device_with_times() -> None:
    text = (
        "timestamp, memory.used [MiB], utilization.gpu [%], clocks.current.sm [MHz], "
        "power.draw [W], temperature.gpu, clocks_event_reasons.active\n"
        "2026/01/02 03:04:05.000, 6636 MiB, 97 %, 1980 MHz, 512.25 W, 61, 0x0000000000000004\n"
        "2026/01/02 03:04:05.250, 6640, 98, 1980, 513, 62, [N/A]\n"
    )
    samples = read_nvidia_smi(text.encode(), "smi.csv").samples
    assert samples is not None
    first, second = samples
    assert (first.at_ms, second.at_ms) == (0.0, 250.0)
    assert (first.device_used_mib, first.util_pct, first.sm_clock_mhz) == (6636.0, 97.0, 1980.0)
    assert (first.power_w, first.temperature_c, first.reasons) == (512.25, 61.0, 4)
    assert (second.device_used_mib, second.reasons, second.pid) == (6640.0, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("17, /bin/a, 6636 MiB\n", "smi.csv:1: no header of nvidia-smi"),
        ("", "smi.csv:1: no header of nvidia-smi"),
        ("pid, used_memory [MiB]\n17\n", "smi.csv:2: 1 cells, the header has 2"),
        ("pid, used_memory [MiB]\n17, 6 GiB\n", "smi.csv:2: used_memory: '6 GiB' is no quantity"),
        ("pid, used_memory [MiB]\n17, 6 MHz\n", "smi.csv:2: used_memory: '6 MHz' is no quantity"),
        ("pid, used_memory [MiB]\nx, 6 MiB\n", "smi.csv:2: pid: 'x' is no whole number"),
        ("timestamp, pid\nnow, 6\n", "smi.csv:2: timestamp 'now'"),
    ],
)
def test_bad_samples_are_named(text: str, message: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_nvidia_smi(text.encode(), "smi.csv")
    assert str(caught.value).startswith(message)


# --- adoption -----------------------------------------------------------------------------------


def recorded(*files: tuple[str, str], **declares: Any) -> RecordedRun:
    named = tuple(RecordedFile(path=path, format=form) for path, form in files)  # type: ignore[arg-type]
    return RecordedRun(driver="recorded", files=named, declares=Declared(**declares))


def adopted(root: Path, run: RecordedRun) -> Evidence:
    folder = adopt(root, run, root / "evidence" / "runs")
    return read_evidence(root, folder.relative_to(root).as_posix())


def test_adopting_twice_is_one_evidence_and_keeps_the_bytes(tmp_path: Path) -> None:
    source = b'{"step": 0, "train_loss": 11.5, "mood": 1}\n'
    (tmp_path / "my run.jsonl").write_bytes(source)
    run = recorded(("my run.jsonl", "jsonl"), seq_len=512, host=DeclaredHost(gpu="NVIDIA H200"))
    first, second = adopted(tmp_path, run), adopted(tmp_path, run)
    assert (first.id, first.declared, first.status) == (second.id, True, "COMPLETED")
    assert (first.started, first.wall_ms, first.run_folder) == (None, None, False)
    assert first.host.gpu is not None
    assert first.host.gpu.name == "NVIDIA H200"
    assert first.notes == ("my run.jsonl: unregistered keys were left out: mood",)
    assert (tmp_path / first.location / "source-0-my_run.jsonl").read_bytes() == source


def test_other_bytes_are_other_evidence_of_the_same_run(tmp_path: Path) -> None:
    run = recorded(("run.jsonl", "jsonl"))
    (tmp_path / "run.jsonl").write_text('{"step": 0, "train_loss": 11.5}\n')
    first = adopted(tmp_path, run)
    (tmp_path / "run.jsonl").write_text('{"step": 0, "train_loss": 11.25}\n')
    second = adopted(tmp_path, run)
    assert first.run_hash == second.run_hash
    assert first.id != second.id


def test_two_files_that_tell_the_steps_are_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"step": 0}\n')
    with pytest.raises(EvidenceError, match=r"a\.jsonl and b\.jsonl both tell the run's steps"):
        adopted(tmp_path, recorded(("a.jsonl", "jsonl"), ("b.jsonl", "jsonl")))


@pytest.mark.parametrize("path", ["../run.jsonl", "/run.jsonl", "link/run.jsonl", "run.jsonl"])
def test_only_regular_files_inside_the_project_are_adopted(tmp_path: Path, path: str) -> None:
    root = tmp_path / "project"
    (root / "run.jsonl").mkdir(parents=True)
    (tmp_path / "run.jsonl").write_text('{"step": 0}\n')
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(EvidenceError, match=r"expected a|symbolic link|not a regular file"):
        adopted(root, recorded((path, "jsonl")))


def test_a_recording_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text('{"step": 0}\n' * 200)
    with pytest.raises(EvidenceError, match=r"run\.jsonl: 2400 bytes, the limit is 1000"):
        adopt(tmp_path, recorded(("run.jsonl", "jsonl")), tmp_path / "runs", limit_bytes=1000)


@needs_field
@pytest.mark.parametrize(("name", "form"), [(REPORT, "json"), (LINES, "jsonl")])
def test_the_fields_recordings_give_exactly_their_figures(
    tmp_path: Path, name: str, form: str
) -> None:
    for file in (name, SAMPLES):
        shutil.copy(FIELD / file, tmp_path / file)
    run = recorded((name, form), (SAMPLES, "nvidia-smi-csv"), pid=1658504)
    evidence = adopted(tmp_path, run)
    columns = evidence.main.steps.columns
    wall = [float(value) for value in columns["wall_ms"] if value is not None]
    loss = [float(value) for value in columns["train_loss"] if value is not None]
    assert columns["step"] == tuple(map(float, range(100)))
    source = (FIELD / LINES).read_text(encoding="utf-8").splitlines()
    assert wall == [json.loads(line)["wall_ms"] for line in source]
    assert (min(wall), max(wall), wall[0]) == (257.8647, 467.66437, 467.66437)
    assert statistics.median(wall) == pytest.approx(264.72005, abs=1e-9)
    assert round(statistics.median(wall[20:50]), 2) == 265.95
    assert (loss[0], loss[99]) == (11.02276, 10.500066)
    assert [(one.pid, one.used_mib) for one in evidence.witness.samples] == [(1658504, 6636.0)]
    assert evidence.pid == 1658504


@needs_field
def test_the_fields_report_tells_how_the_run_ended(tmp_path: Path) -> None:
    shutil.copy(FIELD / REPORT, tmp_path / REPORT)
    evidence = adopted(tmp_path, recorded((REPORT, "json")))
    assert evidence.status == "ABORTED"
    assert str(evidence.reason).startswith("DIVERGENCE at epoch 0: val_loss 10.31299")
    assert evidence.main.epochs.columns["val_loss"] == (10.31299,)
