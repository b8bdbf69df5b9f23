"""SIGKILL at every write of a recording session, then a second session: one consistent state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from project import RECORDED, Project, dedented

from pytest_gates import cli

GATE = """
      - id: GATE-{0}
        run: log
        checks:
          - {{kind: budget, metric: wall_ms, steps: [0, 29], statistic: median, below: {1}}}
        verdict: pending
"""
DRIVER = '''
"""argv: point. Runs a session and dies before that write; 0: tells how many writes there are."""
import os, signal, sys
from pathlib import Path
import pytest
import pytest_gates.items, pytest_gates.plugin, pytest_gates.recording
ROOT, POINT, count = os.getcwd() + os.sep, int(sys.argv[1]), 0
WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR

def point():
    global count
    count += 1
    if count == POINT:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if event in WRITES or opened:
        path = arguments[0]
        named = isinstance(path, (str, bytes, os.PathLike))
        if named and os.path.abspath(os.fsdecode(path)).startswith(ROOT):
            point()

sync = os.fsync
def fsync(descriptor):
    point()
    sync(descriptor)
os.fsync = fsync
sys.addaudithook(hook)
options = ["--gates", "contracts", "-q", "-p", "no:cacheprovider"]
status = pytest.main(options, [pytest_gates.plugin])
if POINT == 0:
    print("WRITES", count)
os._exit(status)
'''


def session(root: Path, point: int) -> tuple[int, str]:
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(point)],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def start(project: Project, name: str) -> Path:
    """Three gates over one recorded run: two will pass, one will fail."""
    root = project.root / name
    (root / "contracts").mkdir(parents=True)
    (root / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    steps = [{"step": step, "wall_ms": 40.0 + step % 7} for step in range(30)]
    (root / "steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
    gates = "".join(GATE.format(name, limit) for name, limit in (("A", 90), ("B", 10)))
    text = dedented(RECORDED) + textwrap.indent(dedented(gates), "  ")
    (root / "contracts" / "claims.yaml").write_text(text, encoding="utf-8")
    return root


def state(root: Path) -> tuple[str, int, dict[str, str]]:
    """What a session leaves, less hashes and times: contract, records, verdicts."""
    lines = (root / "contracts" / "claims.yaml").read_text(encoding="utf-8").splitlines()
    kept = [
        line for line in lines if not line.strip().startswith(("- record:", "date:", "attempts:"))
    ]
    records = [json.loads(path.read_bytes()) for path in root.glob("evidence/records/*/*.json")]
    return "\n".join(kept), len(records), {one["subject"]: one["verdict"] for one in records}


def check_point(project: Project, point: int, whole: tuple[str, int, dict[str, str]]) -> None:
    root = start(project, f"killed-{point}")
    status, told = session(root, point)
    assert status == -signal.SIGKILL, (point, told)
    status, told = session(root, -1)
    assert status == 1, told  # GATE-B fails, as it does without a crash
    assert state(root) == whole, point
    assert not list((root / "contracts").glob(".*")), point
    assert cli.main(["audit", "--root", str(root), str(root / "contracts")]) == 0, point
    assert len(list(root.glob("evidence/runs/*-*"))) == 1, point


@pytest.fixture
def writes(project: Project) -> tuple[int, tuple[str, int, dict[str, str]]]:
    root = start(project, "whole")
    status, told = session(root, 0)
    assert status == 1, told
    count = int(told.rpartition("WRITES ")[2].split()[0])
    whole = state(root)
    assert whole[1:] == (3, {"GATE-MEDIAN": "pass", "GATE-A": "pass", "GATE-B": "fail"})
    return count, whole


def test_a_kill_at_some_writes_leaves_what_the_next_session_finishes(
    project: Project, writes: tuple[int, tuple[str, int, dict[str, str]]]
) -> None:
    count, whole = writes
    assert count > 30
    for point in (count // 3, count - 2):
        check_point(project, point, whole)


@pytest.mark.slow
def test_a_kill_at_every_write_leaves_what_the_next_session_finishes(
    project: Project, writes: tuple[int, tuple[str, int, dict[str, str]]]
) -> None:
    count, whole = writes
    for point in range(1, count + 1):
        check_point(project, point, whole)
