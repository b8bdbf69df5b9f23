"""The probe driver: what the machine offers, without a model, and the program's own rules."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pytest_gates.model import device, probe
from pytest_gates.model.config import ProbeRun, Request
from pytest_gates.model.device import DeviceRequest
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.writer import TelemetryWriter

GRAMMAR = {"name": "device_grammar", "examples": 80}


def _request(tmp_path: Path, **declared: Any) -> Request:
    run = ProbeRun.model_validate({"driver": "probe", **declared})
    return Request(run=run, root=str(tmp_path), cache=str(tmp_path))


def _probed(tmp_path: Path, seams: Seams = CLEAN, **declared: Any) -> list[dict[str, Any]]:
    with TelemetryWriter(tmp_path) as writer:
        probe.run(_request(tmp_path, **declared), writer, seams)
    return _read(tmp_path)


def _read(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "telemetry-0.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _facts(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in lines if line["kind"] == "fact"}


def test_the_facts_of_this_machine(tmp_path: Path) -> None:
    facts = _facts(_probed(tmp_path))
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == torch.__version__
    assert facts["cuda_built"] == torch.version.cuda
    assert facts["cuda_devices"] == torch.cuda.device_count() == len(facts["cuda_device_names"])
    absent = "built without CUDA" if torch.version.cuda is None else "built with CUDA, no device"
    visible = torch.cuda.is_available()
    assert facts["environment_state"] == ("CUDA devices visible" if visible else absent)


def test_visible_devices_are_counted_and_named(tmp_path: Path) -> None:
    two = [{"name": "NVIDIA H200"}, {"name": "NVIDIA GeForce RTX 4090"}]
    machine = {"python": "3.13.1", "torch": "2.11.0", "cuda_built": "12.9"}
    machine |= {"state": "CUDA devices visible", "devices": two}
    with TelemetryWriter(tmp_path) as writer:
        probe.run(_request(tmp_path), writer, Seams(environment=lambda: machine))
    facts = _facts(_read(tmp_path))
    assert facts["cuda_devices"] == 2
    assert facts["cuda_device_names"] == ["NVIDIA H200", "NVIDIA GeForce RTX 4090"]
    assert facts["environment_state"] == "CUDA devices visible"


def test_a_declared_property_is_searched(tmp_path: Path) -> None:
    lines = _probed(tmp_path, properties=[GRAMMAR])
    (found,) = (line for line in lines if line["kind"] == "property")
    assert found["name"] == "device_grammar"
    assert found["examples"] > GRAMMAR["examples"]
    assert found["counterexample"] is None


def test_a_broken_parser_in_a_runs_seams_is_found(tmp_path: Path) -> None:
    def forgiving(name: str) -> DeviceRequest:
        return device.parse_device(name.strip())

    lines = _probed(tmp_path, Seams(parse_device=forgiving), properties=[GRAMMAR])
    (found,) = (line for line in lines if line["kind"] == "property")
    assert found["counterexample"] == {"name": "cpu\n", "parsed": "cpu", "expected": "refused"}


def test_the_process_of_a_probe_says_all_and_completes(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        _request(tmp_path, properties=[GRAMMAR], host={"cuda": "hidden"}).model_dump_json(),
        encoding="utf-8",
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pytest_gates.model", str(tmp_path / "run.json"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (out / "telemetry-0.jsonl").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line) for line in lines]
    assert [line["event"] for line in said if line["kind"] == "event"] == [
        "run_started",
        "run_finished",
    ]
    assert _facts(said)["cuda_devices"] == 0
    assert not (tmp_path / ".hypothesis").exists()
