"""`pytest-gates`: what people ask without running pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from loading import RUN, gate

from pytest_gates import __version__
from pytest_gates.cli import main
from pytest_gates.commands import COMMANDS
from pytest_gates.commands.env import told
from pytest_gates.evidence import Gpu
from pytest_gates.run.gpus import Gpus

Said = pytest.CaptureFixture[str]
GOOD = RUN + gate("{kind: finite, metrics: [train_loss]}") + "  - {id: P, rule: prose}\n"


def test_validate_counts_what_is_right_and_runs_nothing(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert main(["validate", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 2 gates, 0 falsifiers, 1 of them prose\n"
    assert [one.name for one in tmp_path.iterdir()] == ["a.yaml"]


def test_validate_says_all_that_is_wrong_in_all_files(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("steps", "stpes"), encoding="utf-8")
    (tmp_path / "b.yml").write_text("gates: 3\nruns: 4\n", encoding="utf-8")
    (tmp_path / "c.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("gates: 3\n", encoding="utf-8")
    assert main(["validate", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/a.yaml:9:5: unknown key `stpes`; did you mean `steps`?",
        f"{tmp_path}/b.yml:1:8: `gates` must be a list",
        f"{tmp_path}/b.yml:2:7: `runs` must be a mapping of names",
        f"{tmp_path}/c.yaml: 2 gates, 0 falsifiers, 1 of them prose",
    ]


def test_validate_finds_one_gate_in_two_files(tmp_path: Path, capsys: Said) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(f"contract_id: C\n{GOOD}", encoding="utf-8")
    assert main(["validate", str(tmp_path)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{tmp_path}/b.yaml:12:5: `G` of contract `C` is declared in {tmp_path}")


def test_validate_of_what_is_not_there(tmp_path: Path, capsys: Said) -> None:
    assert main(["validate", str(tmp_path / "nowhere")]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"{tmp_path}/nowhere: there is no such file or folder\n"
    assert captured.out == ""


def test_schema_prints_what_is_published(capsys: Said) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == "pytest-gates contract"


def talking_to(
    output: int, root: Path, arguments: tuple[str, ...], *, unbuffered: bool = False
) -> tuple[int, str]:
    """Exit status and standard error of a command whose standard output is that descriptor."""
    (root / "a.yaml").write_text(GOOD, encoding="utf-8")
    (root / "t.csv").write_text(
        "layer,ffn_silu\n" + "".join(f"{layer},0.1\n" for layer in range(200)), encoding="utf-8"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gates.cli", *arguments],
        cwd=root, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(output)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments",
    # argparse itself swallows what an unbuffered help text meets.
    [("--help",), ("schema",), ("validate", "a.yaml"), ("trace", "t.csv", "--json")],
    ids=" ".join,
)
def test_a_reader_that_stops_reading_ends_a_command_quietly(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert talking_to(writer, tmp_path, arguments) == (141, "")


TALKING = {
    "new": ("claims", "--kind", "training"),
    "validate": ("a.yaml",),
    "trace": ("t.csv",),
    "mutate": ("a.yaml", "--plan"),
    "audit": ("a.yaml",),
    "history": (),
    "diff": ("a.yaml", "a.yaml"),
    "sync": ("a.yaml",),
    "report": ("a.yaml",),
    "env": (),
    "schema": (),
    "completion": ("bash",),
}
"""What each command may be asked for, so that it has something to say."""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("name", "unbuffered"),
    [*((name, False) for name in TALKING), ("trace", True), ("audit", True)],
)
def test_a_full_disk_behind_standard_output_is_one_clear_line(
    tmp_path: Path, name: str, unbuffered: bool
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    status, told = talking_to(full, tmp_path, (name, *TALKING[name]), unbuffered=unbuffered)
    assert told == "standard output: No space left on device; what was told there is not all\n"
    assert status == 1


def test_every_command_is_known_to_talk() -> None:
    assert [command.__name__.rpartition(".")[2] for command in COMMANDS] == list(TALKING)


def test_env_tells_this_machine(capsys: Said) -> None:
    assert main(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    visible = torch.cuda.device_count()
    absent = "built without CUDA" if torch.version.cuda is None else "built with CUDA, no device"
    assert report["state"] == ("CUDA devices visible" if visible else absent)
    assert [device["index"] for device in report["devices"]] == list(range(visible))
    assert report["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("state", "built", "devices"),
    [
        ("built without CUDA", None, []),
        ("built with CUDA, no device", "12.9", []),
        (
            "CUDA devices visible",
            "12.9",
            [{"index": 0, "name": "NVIDIA H200", "uuid": "GPU-1", "memory_mib": 143156,
              "capability": "9.0"}],
        ),
    ],
)  # fmt: skip
def test_env_tells_the_three_states_apart_and_nvml_beside_them(
    state: str, built: str | None, devices: list[dict[str, object]]
) -> None:
    facts = {
        "environment_state": state, "cuda_device_list": devices, "cuda_built": built,
        "python": "3.13.1", "torch": "2.11.0",
    }  # fmt: skip
    # NVML sees a GPU whatever torch can make of it.
    gpus = Gpus(None, driver="570.1", all=(Gpu("NVIDIA H200", "GPU-1", 143771),))
    report = json.loads(json.dumps(told(facts, gpus)))
    assert (report["state"], report["cuda_built"], report["devices"]) == (state, built, devices)
    assert report["driver"] == "570.1"
    assert report["nvml"] == {
        "gpus": [{"name": "NVIDIA H200", "uuid": "GPU-1", "memory_mib": 143771}],
        "unavailable": None,
    }


def test_usage_is_told_and_help_loads_nothing_heavy(capsys: Said) -> None:
    for wrong in ([], ["no-such-command"], ["validate"]):
        with pytest.raises(SystemExit) as refused:
            main(wrong)
        assert refused.value.code == 2
    assert "usage: pytest-gates" in capsys.readouterr().err
    with pytest.raises(SystemExit) as fine:
        main(["--version"])
    assert fine.value.code == 0
    assert capsys.readouterr().out == f"pytest-gates {__version__}\n"
    code = (
        "import sys\nfrom pytest_gates.cli import parser\nparser().format_help()\n"
        "print(sorted({'torch', 'yaml', 'pydantic', 'numpy', 'pytest'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["audit", "diff", "history", "new", "schema", "validate"])
def test_help_says_what_a_command_is_for_and_shows_a_call(name: str, capsys: Said) -> None:
    with pytest.raises(SystemExit) as fine:
        main([name, "--help"])
    assert fine.value.code == 0
    _usage, *prose = capsys.readouterr().out.split("\n\n")
    assert len(prose[0].split()) > 20
    assert f"  pytest-gates {name}" in prose[-1] or prose[-1].startswith(f"pytest-gates {name} ")
