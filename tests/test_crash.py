"""SIGKILL at every write of a recording session, then a second session: one consistent state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
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
"""Lines of JSON [root, point, file] on stdin: each a session in a fork of its own, for to import
everything takes longer than the session. It dies before that write; 0: it tells how many there
are. Answers with the exit status; what the session says goes to the file."""
import json, os, signal, sys
import pytest
import pytest_gates.items, pytest_gates.plugin, pytest_gates.recording
import pytest_gates.report.publish, pytest_gates.run.drivers.recorded
WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR

def session(root, last, told):
    output = os.open(told, os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(root)
    beneath, count, sync = os.getcwd() + os.sep, 0, os.fsync

    def point():
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event in WRITES or opened:
            path = arguments[0]
            named = isinstance(path, (str, bytes, os.PathLike))
            if named and os.path.abspath(os.fsdecode(path)).startswith(beneath):
                point()

    def fsync(descriptor):
        point()
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)
    options = ["--gates", "contracts", "-q", "-p", "no:cacheprovider"]
    status = pytest.main(options, [pytest_gates.plugin])
    print("WRITES", count, flush=True)
    os._exit(status)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        session(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''


class Sessions:
    """Starts recording sessions, each in a process of its own."""

    def __init__(self, output: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        environment |= {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        }
        self._output = output
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, root: Path, point: int) -> tuple[int, str]:
        assert self._process.stdin
        assert self._process.stdout
        self._output.unlink(missing_ok=True)
        self._process.stdin.write(json.dumps([str(root), point, str(self._output)]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return status, self._output.read_text(encoding="utf-8")

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    started = Sessions(tmp_path / "told.txt")
    yield started
    started.close()


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


State = tuple[str, int, dict[str, str]]


def state(root: Path) -> State:
    """What a session leaves, less hashes and times: contract, records, verdicts."""
    lines = (root / "contracts" / "claims.yaml").read_text(encoding="utf-8").splitlines()
    kept = [
        line for line in lines if not line.strip().startswith(("- record:", "date:", "attempts:"))
    ]
    records = [json.loads(path.read_bytes()) for path in root.glob("evidence/records/*/*.json")]
    return "\n".join(kept), len(records), {one["subject"]: one["verdict"] for one in records}


def check_point(project: Project, sessions: Sessions, point: int, whole: State) -> None:
    root = start(project, f"killed-{point}")
    status, told = sessions.run(root, point)
    assert status == -signal.SIGKILL, (point, told)
    status, told = sessions.run(root, -1)
    assert status == 1, told  # GATE-B fails, as it does without a crash
    assert state(root) == whole, point
    assert not list((root / "contracts").glob(".*")), point
    assert cli.main(["audit", "--root", str(root), str(root / "contracts")]) == 0, point
    # A killed process may leave `.staging-*` behind, which nothing reads.
    runs = [path for path in root.glob("evidence/runs/*") if not path.name.startswith(".")]
    assert len(runs) == 1, point


@pytest.fixture
def writes(project: Project, sessions: Sessions) -> tuple[int, State]:
    root = start(project, "whole")
    status, told = sessions.run(root, 0)
    assert status == 1, told
    count = int(told.rpartition("WRITES ")[2].split()[0])
    whole = state(root)
    assert whole[1:] == (3, {"GATE-MEDIAN": "pass", "GATE-A": "pass", "GATE-B": "fail"})
    return count, whole


def test_a_kill_at_some_writes_leaves_what_the_next_session_finishes(
    project: Project, sessions: Sessions, writes: tuple[int, State]
) -> None:
    count, whole = writes
    assert count > 30
    for point in (count // 3, count - 2):
        check_point(project, sessions, point, whole)


@pytest.mark.slow
def test_a_kill_at_every_write_leaves_what_the_next_session_finishes(
    project: Project, sessions: Sessions, writes: tuple[int, State]
) -> None:
    count, whole = writes
    for point in range(1, count + 1):
        check_point(project, sessions, point, whole)
