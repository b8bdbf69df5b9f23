"""`pytest-gates new`, completion and help, as somebody meets them who has never seen the tool."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import Project

from pytest_gates.cli import main, parser
from pytest_gates.commands import COMMANDS
from pytest_gates.commands.new import KINDS
from pytest_gates.starters import KINDS as MEANINGS

GPU = ("--gpu", "NVIDIA H200", "--budget-ms", "60")


@pytest.fixture
def root(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project.root)
    return project.root


def _log(root: Path, steps: int = 30) -> None:
    lines = [{"step": step, "train_loss": 5 - step / 9, "wall_ms": 40.0 + step % 7}
             for step in range(steps)]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "log.jsonl").write_text(text, encoding="utf-8")


def test_every_kind_has_its_meaning() -> None:
    assert tuple(MEANINGS) == KINDS


@pytest.mark.parametrize("kind", ["training", "forward", "gpu"])
def test_a_new_contract_validates(
    root: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    extra = GPU if kind == "gpu" else ()
    assert main(["new", "My first-claims", "--kind", kind, *extra]) == 0
    assert main(["validate", "contracts"]) == 0
    assert "GATE-MY-FIRST-CLAIMS-001" in (root / "contracts" / "My first-claims.yaml").read_text()
    written = "written contracts/My first-claims.yaml; judge it with: pytest --gates contracts\n"
    assert written in capsys.readouterr().out


def test_a_new_contract_names_the_schema_that_the_project_keeps_and_none_that_is_not_there(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "before", "--kind", "forward"]) == 0
    before = (root / "contracts" / "before.yaml").read_text(encoding="utf-8")
    assert "$schema" not in before
    capsys.readouterr()
    assert main(["schema"]) == 0
    schema = root / "contract.schema.json"
    schema.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["new", "after", "--kind", "forward"]) == 0
    first, _, rest = (root / "contracts" / "after.yaml").read_text(encoding="utf-8").split("\n", 2)
    assert first == f"# yaml-language-server: $schema=../{schema.name}"
    assert rest == before.replace("BEFORE", "AFTER")
    assert main(["validate", "contracts"]) == 0


def test_a_new_contract_over_a_log_runs_and_passes(root: Path, project: Project) -> None:
    _log(root)
    assert main(["new", "nightly", "--kind", "recorded", "--file", "log.jsonl",
                 "--budget-ms", "60", "--gpu", "NVIDIA H200"]) == 0  # fmt: skip
    project.run().assert_outcomes(passed=2)
    assert main(["new", "plain", "--kind", "recorded", "--file", "log.jsonl"]) == 0
    assert "budget" not in (root / "contracts" / "plain.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "gates"), [("forward", 2), ("training", 3)])
def test_a_new_contract_runs_passes_and_each_of_its_gates_is_seen_red(
    root: Path, project: Project, kind: str, gates: int
) -> None:
    assert main(["new", "path", "--kind", kind]) == 0
    result = project.run("--gates-strict")
    result.assert_outcomes(passed=2 * gates)
    result.stdout.fnmatch_lines([f"seen red: {gates} of {gates} gates"])


def test_a_new_gpu_contract_is_blocked_where_there_is_none_but_its_refusal_is_seen_red(
    root: Path, project: Project
) -> None:
    assert main(["new", "gpu", "--kind", "gpu", *GPU]) == 0
    result = project.run("-k", "001")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*FALSIFY-GPU-001*CAUGHT*"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["x"], "--kind (training, gpu, forward, recorded) is missing"),
        (["--kind", "training"], "NAME is missing"),
        (["x", "--kind", "gpu", "--budget-ms", "60"], "--gpu is missing"),
        (["x", "--kind", "recorded"], "--file is missing"),
        (["x", "--kind", "recorded", "--file", "none.jsonl"], "none.jsonl: No such file"),
        (["x", "--kind", "recorded", "--file", "empty.jsonl"], "empty.jsonl: "),
        (["...", "--kind", "training"], "no letter or digit"),
        (["x", "--kind", "gpu", "--gpu", "H2OO", "--budget-ms", "60"], "--gpu: unknown GPU 'H2OO'"),
        (
            ["x", "--kind", "gpu", "--gpu", "H200", "--budget-ms", "60"],
            "--gpu: unknown GPU 'H200'; did you mean `NVIDIA H200`?\n",
        ),
        (["x", "--kind", "training", "--model", "llama-2m"], "unknown model 'llama-2m'"),
        (["x", "--kind", "gpu", "--gpu", "NVIDIA H200", "--budget-ms", "nan"], "nan"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_written(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    said: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (root / "empty.jsonl").write_text("", encoding="utf-8")
    assert main(["new", *args]) == 1
    assert said in capsys.readouterr().err
    assert list((root / "contracts").iterdir()) == []


def test_a_file_that_is_there_is_never_written_over(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "x", "--kind", "training"]) == 0
    path = root / "contracts" / "x.yaml"
    path.write_text("mine", encoding="utf-8")
    assert main(["new", "x", "--kind", "training"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"


def test_on_a_terminal_what_is_missing_is_asked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["asked", "gpu", "NVIDIA H200", "60"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: next(answers))
    assert main(["new"]) == 0
    assert 'below: {"NVIDIA H200": 60}' in (root / "contracts" / "asked.yaml").read_text()


def test_a_hostile_answer_stays_one_value(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = 'H", x: {"y'
    assert main(["new", "x", "--kind", "gpu", "--gpu", gpu, "--budget-ms", "60"]) == 1
    assert "unknown GPU" in capsys.readouterr().err


def test_every_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for part in ("a contract", "a gate", "a falsifier", "pytest --gates contracts/"):
        assert part in told
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        assert f"    {name} " in told or f"    {name}\n" in told
    with pytest.raises(SystemExit):
        main(["new", "--help"])
    assert "pytest-gates new smoke --kind training" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert _completed(script, "pytest-gates", "re") == ["report"]
    assert "--kind" in _completed(script, "pytest-gates", "new", "--k")
    assert _completed(script, "pytest-gates", "completion", "z") == ["zsh"]


def _completed(script: str, *words: str) -> list[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    asked = (
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        '_shtab_pytest_gates; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_without_the_extra_completion_says_the_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'pytest-gates[completion]'" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    heavy = {"yaml", "pydantic", "torch", "numpy", "jinja2", "vl_convert"}
    show = f"""
import sys, pytest_gates.cli
pytest_gates.cli.parser().format_help()
print(sorted({heavy!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert parser().prog == "pytest-gates"
