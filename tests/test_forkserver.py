"""The forkserver as a process of its own: what a run leaves behind, wherever a look at it falls."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from project import dedented

SERVER = """
    import os, sys, time
    from pathlib import Path
    from pytest_gates.model import forkserver

    FOLDER, LEAVES = Path(sys.argv[1]), int(sys.argv[2])
    listdir = os.listdir

    def waits_for(true):
        until = time.monotonic() + 300
        while not true() and time.monotonic() < until:
            time.sleep(0.001)

    def run(request, out):
        if os.fork() == 0:
            os.setsid()
            (FOLDER / "middle.draft").write_text(str(os.getpid()))
            (FOLDER / "middle.draft").rename(FOLDER / "middle")
            waits_for((FOLDER / "listed").exists)
            if LEAVES and os.fork() == 0:
                (FOLDER / "left.draft").write_text(str(os.getpid()))
                (FOLDER / "left.draft").rename(FOLDER / "left")
                time.sleep(300)
            if LEAVES:
                waits_for((FOLDER / "left").exists)  # it may be killed as soon as it is found
            os._exit(0)
        waits_for((FOLDER / "middle").exists)
        return 0

    def listing(path):
        names = listdir(path)
        if path == "/proc" and not (FOLDER / "listed").exists():
            (FOLDER / "listed").touch()
            stat = Path("/proc", (FOLDER / "middle").read_text(), "stat")
            waits_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        return names

    os.listdir = listing
    sys.modules["entry_of_the_test"] = sys.modules["__main__"]
    forkserver.main(["--entry", "entry_of_the_test:run", "--preload"])
"""


def survivors(folder: Path, linger_s: float, leaves: int) -> int:
    """How many processes a run is said to have left, of which one ends while it is looked for."""
    log = folder / "log"
    request = {"id": 1, "request": "r", "out": "o", "log": str(log), "linger_s": linger_s}
    script = [sys.executable, "-c", dedented(SERVER), str(folder), str(leaves)]
    with subprocess.Popen(script, stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        told = {}
        while "ended" not in told:
            told = json.loads(server.stdout.readline())
        server.stdin.close()  # which ends it
    assert log.read_text(encoding="utf-8") == ""
    return int(told["survivors"])


@pytest.mark.parametrize("linger_s", [0.2, 0.0])
def test_what_forks_and_ends_while_it_is_looked_for_is_not_missed(
    tmp_path: Path, linger_s: float
) -> None:
    assert survivors(tmp_path, linger_s, leaves=1) == 1
    left = (tmp_path / "left").read_text(encoding="utf-8")
    assert not Path("/proc", left).exists()


STOPPED = """
    import os, sys, time
    from pathlib import Path
    from pytest_gates.model import forkserver

    def run(request, out):
        if os.fork() == 0:
            os.setsid()
        Path(sys.argv[1], f"{os.getpid()}.pid").touch()
        time.sleep(300)

    sys.modules["entry_of_the_test"] = sys.modules["__main__"]
    forkserver.main(["--entry", "entry_of_the_test:run", "--preload"])
"""


def test_a_signal_reaches_what_left_the_group_of_its_run(tmp_path: Path) -> None:
    request = {"id": 1, "request": "r", "out": "o", "log": str(tmp_path / "log")}
    script = [sys.executable, "-c", dedented(STOPPED), str(tmp_path)]

    def states() -> list[str]:
        stats = [Path("/proc", one.stem, "stat") for one in tmp_path.glob("*.pid")]
        return [one.read_text(encoding="utf-8").rpartition(")")[2].split()[0] for one in stats]

    def becomes(*wanted: str) -> None:
        until = time.monotonic() + 60
        while states() != list(wanted) and time.monotonic() < until:
            time.sleep(0.01)
        assert states() == list(wanted)

    with subprocess.Popen(script, stdin=PIPE, stdout=PIPE, text=True) as server:
        assert server.stdin is not None
        for message, wanted in (
            (request, "S"),
            ({"signal": 1, "number": signal.SIGSTOP}, "T"),
            ({"signal": 1, "number": signal.SIGCONT}, "S"),
        ):
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
            becomes(wanted, wanted)
        server.stdin.close()


def test_a_helper_that_has_ended_when_its_time_is_up_has_not_outlived_the_run(
    tmp_path: Path,
) -> None:
    """It is a zombie in the only look that falls within the time: a busy machine takes no other."""
    assert survivors(tmp_path, 0.0, leaves=0) == 0
