"""Runs for the tests of the worker: what a run does is named by its prompt. No torch in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def act(request_path: Path, out: Path) -> int:
    request = json.loads(request_path.read_text())
    name, _, argument = request["run"]["prompt"].partition(" ")
    return ACTS[name](request, out, argument)


def _say(out: Path, **line: Any) -> None:
    out.mkdir(exist_ok=True)
    with (out / "telemetry-0.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _waited_for(file: Path) -> bool:
    until = time.monotonic() + 60
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.005)
    return file.exists()


def complete(request: dict[str, Any], out: Path, argument: str) -> int:
    for step in range(3):
        _say(out, kind="step", step=step, train_loss=3.0 - step)
    return 0


def torn(request: dict[str, Any], out: Path, argument: str) -> int:
    out.mkdir()
    with (out / "telemetry-0.jsonl").open("a", buffering=1) as file:
        file.write('{"kind": "step", ')
        file.flush()
        time.sleep(0.1)
        file.write('"step": 0}\nno json\n[1]\n{"kind": "event", "event": "cut')
    return 0


def refuse(request: dict[str, Any], out: Path, argument: str) -> int:
    print("some warning", file=sys.stderr)
    print(json.dumps({"status": "DEVICE_UNAVAILABLE", "reason": "none here"}), file=sys.stderr)
    return 3


def leave(request: dict[str, Any], out: Path, argument: str) -> int:
    raise SystemExit(int(argument))


def fail(request: dict[str, Any], out: Path, argument: str) -> int:
    raise RuntimeError("boom")


def kill(request: dict[str, Any], out: Path, argument: str) -> int:
    os.kill(os.getpid(), getattr(signal, argument))
    return 0


def hang(request: dict[str, Any], out: Path, argument: str) -> int:
    """Tells its process and that of a child of its own, then never ends."""
    if argument == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _say(out, kind="fact", name="pids", value=[os.getpid(), child.pid])
    time.sleep(600)
    return 0


def orphan(request: dict[str, Any], out: Path, argument: str) -> int:
    """Ends by itself, and leaves a child of its own behind."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _say(out, kind="fact", name="pids", value=[os.getpid(), child.pid])
    return 0


def hold(request: dict[str, Any], out: Path, argument: str) -> int:
    """Goes through the allocations that it was told, as the trainer does."""
    control = Path(request["control"])
    seen = []
    for index, mib in enumerate(request["allocations_mib"]):
        (control / "held").write_text(str(mib))
        _say(out, kind="event", event="memory_held", step=None, index=index, mib=mib)
        seen.append(_waited_for(control / f"seen-{index}"))
        (control / "held").write_text("0")
    _say(out, kind="fact", name="seen", value=seen)
    return 0


def describe(request: dict[str, Any], out: Path, argument: str) -> int:
    """What a run finds around itself."""
    print("to the log")
    _say(out, kind="fact", name="stdin", value=sys.stdin.read())
    _say(out, kind="fact", name="torch", value="torch" in sys.modules)
    _say(out, kind="fact", name="order", value=os.environ["CUDA_DEVICE_ORDER"])
    _say(out, kind="fact", name="leader", value=os.getsid(0) == os.getpid() == os.getpgid(0))
    _say(out, kind="fact", name="parent", value=os.getppid())
    _say(out, kind="fact", name="open", value=len(list(Path("/proc/self/fd").iterdir())))
    return 0


ACTS: dict[str, Callable[[dict[str, Any], Path, str], int]] = {
    each.__name__: each
    for each in (complete, torn, refuse, leave, fail, kill, hang, orphan, hold, describe)
}


def ranks(request_path: Path, out: Path) -> int:
    """A launcher of two ranks, which each go through the allocations that they were told.

    A third process claims to be rank 1 as well, and is no child of the launcher's.
    """
    request = json.loads(request_path.read_text())
    out.mkdir()
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            _rank(request, out, rank)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return 0


def _rank(request: dict[str, Any], out: Path, rank: int) -> None:
    control = Path(request["control"])
    with (out / f"telemetry-{rank}.jsonl").open("a", buffering=1) as file:

        def say(**line: Any) -> None:
            file.write(json.dumps(line) + "\n")

        if rank == 1:
            say(kind="event", event="run_started", step=None, pid=1)  # not one of ours
        say(kind="event", event="run_started", step=None, pid=os.getpid())
        for index, mib in enumerate(request["allocations_mib"]):
            (control / f"held-{rank}").write_text(str(mib))
            say(kind="event", event="memory_held", step=None, index=index, mib=mib)
            seen = control / (f"seen-{index}" if rank == 0 else f"seen-{index}-of-rank-{rank}")
            _waited_for(seen)
            (control / f"held-{rank}").write_text("0")
        _waited_for(control / f"sampled-{rank}")
        say(kind="event", event="run_finished", step=None)
