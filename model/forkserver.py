"""The forkserver: a process with torch imported and CUDA untouched that forks a process a run.

`python -m pytest_gates.model.forkserver` reads JSON lines from stdin and writes JSON lines to
stdout. It is told:

- `{"id": 1, "request": PATH, "out": PATH, "log": PATH}`: start a run; with `"linger_s": 1.0` its
  end is told once all that it started has ended too, after so many seconds at the latest; with
  `"imports": ["module"]` these are imported before it, for all runs that follow;
- `{"signal": 1, "number": 19}`: a signal to that run's process group and all that it started;
- `{"end": 1, "grace_s": 2.0}`: SIGTERM to that run's process group, SIGKILL after the grace.

It answers:

- `{"ready": PID, "torch": VERSION, "cuda": VERSION}`: once, all imports done;
- `{"started": PID, "id": 1, "at_ns": T}`: T is this process's `time.monotonic_ns()`, which on Linux
  is the same clock in every process (clock_gettime(2), CLOCK_MONOTONIC);
- `{"ended": PID, "id": 1, "exit": CODE or null, "signal": NUMBER or null, "wall_ms": MS,
  "survivors": COUNT}`: how many processes outlived the run and were killed.

It is the subreaper of all that its runs start (prctl(2), PR_SET_CHILD_SUBREAPER): a process that a
run left behind, of another session even, becomes its child, so that none is ever an orphan.

When stdin ends, which it does also when its owner is killed, every run is killed with all that it
started, and the forkserver exits.

Why not the forkserver of `multiprocessing`: it imports the caller's `__main__` again in every
child, so each run would import pytest once more, and a script that calls `pytest.main()` without a
guard would start itself over and over. Why one process and no threads: a fork copies only the
thread that calls it, and a lock that another one held would stay locked in the child for ever.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ENTRY = "pytest_gates.model.__main__:run_request"
"""`module:name` of the function (request path, out folder) -> exit code that a run consists of."""

PRELOAD = ("pytest_gates.model.preload",)
"""Modules that are imported once, for all runs, beside the entry's own."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.02
"""Between two looks for what outlives a run."""
_SWEEP_S = 5.0
"""Longest time for which processes that keep forking are killed."""
_CHUNK = 65536

Entry = Callable[[Path, Path], int]


@dataclass
class _Run:
    id: int
    started_ns: int
    linger_s: float | None = None
    """How long what it started may outlive it; None: it is killed at once, and not counted."""
    kill_at: float | None = None
    """Time of `time.monotonic()` at which SIGTERM has had its chance."""
    ended_ns: int | None = None
    """When its own process ended, while others of it live on."""


class Forkserver:
    """Forks a process a request, reports its end, and leaves nothing behind."""

    def __init__(self, entry: Entry, reply_fd: int) -> None:
        self._entry = entry
        self._reply_fd = reply_fd
        self._runs: dict[int, _Run] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._wakeup = socket.socketpair()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._rest = b""
        self._stopping = False

    def serve(self) -> None:
        """Serve until stdin ends or SIGTERM comes."""
        self._watch_signals()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        while not self._stopping:
            ready = {key.fd for key, _ in self._selector.select(self._until_next_kill())}
            if self._wake.fileno() in ready:
                self._stopping = signal.SIGTERM in self._wake.recv(_CHUNK)
            self._reap()
            self._kill_overdue()
            if 0 in ready:
                self._read_requests()
        for pid in self._runs:
            _signal_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._runs.clear()
        self._sweep()

    def reply(self, **message: Any) -> None:
        """Write one line to the owner; an owner that is gone is noticed on stdin."""
        try:
            os.write(self._reply_fd, (json.dumps(message) + "\n").encode())
        except BrokenPipeError:
            self._stopping = True

    def _watch_signals(self) -> None:
        # The handler does nothing: a signal without one would not be written to the wakeup socket.
        self._wake.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    def _read_requests(self) -> None:
        chunk = os.read(0, _CHUNK)
        if not chunk:
            self._stopping = True
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "end" in message:
                self._end(message["end"], message["grace_s"])
            elif "signal" in message:
                self._signal(message["signal"], message["number"])
            else:
                self._start(message)

    def _start(self, message: dict[str, Any]) -> None:
        self._import(message.get("imports", ()))
        started_ns = time.monotonic_ns()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_run(server, message)
        self._runs[pid] = _Run(message["id"], started_ns, message.get("linger_s"))
        self.reply(started=pid, id=message["id"], at_ns=started_ns)

    def _import(self, names: Sequence[str]) -> None:
        """Import what a run needs and no run needed before; where that fails, the run will say why.

        A fork has it at once, where each process would import it anew.
        """
        new = [name for name in names if name not in sys.modules]
        for name in new:
            with suppress(ImportError):
                importlib.import_module(name)
        if new:
            gc.freeze()

    def _end(self, run_id: int, grace_s: float) -> None:
        for pid, run in self._runs.items():
            if run.id == run_id:
                _signal_group(pid, signal.SIGTERM)
                # A process that was stopped hears nothing before it goes on.
                _signal_group(pid, signal.SIGCONT)
                run.kill_at = time.monotonic() + grace_s

    def _signal(self, run_id: int, number: int) -> None:
        for pid, run in self._runs.items():
            if run.id == run_id and run.ended_ns is None:
                _signal_group(pid, number)
                _signal_others(pid, number)

    def _until_next_kill(self) -> float | None:
        times = [run.kill_at for run in self._runs.values() if run.kill_at is not None]
        until = [max(0.0, min(times) - time.monotonic())] if times else []
        if any(run.ended_ns is not None for run in self._runs.values()):
            until.append(_LOOK_S)
        return min(until, default=None)

    def _kill_overdue(self) -> None:
        for pid, run in self._runs.items():
            if run.kill_at is not None and run.kill_at <= time.monotonic():
                run.kill_at = None
                _signal_group(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid in list(self._runs):
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is None:
                continue
            run = self._runs[pid]
            run.ended_ns = run.ended_ns or time.monotonic_ns()
            lingered_s = (time.monotonic_ns() - run.ended_ns) / 1e9  # when the look begins
            living, ended = ([], []) if run.linger_s is None else self._survivors(pid)
            # Where all that it finds has ended, a look has yet to come that says what that left.
            patience_s = (run.linger_s or 0.0) + (0.0 if living else _SWEEP_S)
            if (living or ended) and lingered_s < patience_s:
                continue
            del self._runs[pid]
            # Before its own process is reaped, its id cannot have become another group's.
            _signal_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if not self._runs:  # what is left is of no run that still goes on
                self._sweep()
            exited = end.si_code == os.CLD_EXITED
            self.reply(
                ended=pid,
                id=run.id,
                exit=end.si_status if exited else None,
                signal=None if exited else end.si_status,
                wall_ms=(run.ended_ns - run.started_ns) / 1e6,
                survivors=len(living) or len(ended),
            )

    def _survivors(self, pid: int) -> tuple[list[int], list[int]]:
        """Processes that a run started, beside its own: those that live, and those that ended.

        /proc is not read at one moment: a process can fork after it was listed and end before it
        is read, so that its child is in no list. Its own entry is that of a zombie then, which
        nobody else can reap; it is told once, and the next look finds what it left. So a look that
        finds nothing has missed nothing.
        """
        parents, zombies = _processes()
        ours = os.getpid()
        strays = {one for one, parent in parents.items() if parent == ours} - self._runs.keys()
        for one in strays & zombies:
            os.waitpid(one, os.WNOHANG)  # it stays where it has a thread that goes on
        below = _descendants(parents, strays | {pid}) - {pid}
        return sorted(below - zombies), sorted(strays & zombies)

    def _sweep(self) -> None:
        """Kill all that runs left, and what those start meanwhile; nothing else is below us."""
        until = time.monotonic() + _SWEEP_S
        while time.monotonic() < until:
            try:
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
            except ChildProcessError:
                return
            left = _descendants(_processes()[0], {os.getpid()}) - {os.getpid()}
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(_LOOK_S / 10)

    def _become_run(self, server: int, message: dict[str, Any]) -> NoReturn:
        """The child's whole life. It never returns into the server's loop."""
        code = 1
        try:
            self._leave_server(server)
            _redirect(Path(message["log"]))
            code = self._entry(Path(message["request"]), Path(message["out"]))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - whatever it was, it goes to the log and no further
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:  # a full disk must not let the child live on as a second server
                os._exit(code)

    def _leave_server(self, server: int) -> None:
        os.setsid()
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # it died before the line above could take effect
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        self._wake.close()
        self._wakeup.close()
        os.close(self._reply_fd)
        gc.unfreeze()


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # Between its fork and its setsid a child leads no group yet.
        os.kill(pid, number)


def _signal_others(pid: int, number: int) -> None:
    """What a process started that has left its group, as the ranks of torchrun do."""
    for one in _descendants(_processes()[0], {pid}):
        with suppress(ProcessLookupError):
            if os.getpgid(one) != pid:
                os.kill(one, number)


def _processes() -> tuple[dict[int, int], set[int]]:
    """Every process with its parent, and which are zombies; empty where there is no /proc."""
    found: dict[int, int] = {}
    zombies: set[int] = set()
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - a thousand entries, many times
    except OSError:
        return found, zombies
    for name in names:
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        found[int(name)] = int(parent)
        if state == b"Z":
            zombies.add(int(name))
    return found, zombies


def _descendants(parents: dict[int, int], roots: set[int]) -> set[int]:
    """Those roots that are there, and all that descends from any of them."""
    children: dict[int, list[int]] = {}
    for one, parent in parents.items():
        children.setdefault(parent, []).append(one)
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead.extend(children.get(one, ()))
    return found & parents.keys()


def _redirect(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)
    faulthandler.enable()


def _versions() -> dict[str, str | None]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {"torch": None, "cuda": None}
    # A context made before the fork is unusable in every child.
    assert not torch.cuda.is_initialized(), "an import has initialised CUDA in the forkserver"
    return {"torch": str(torch.__version__), "cuda": torch.version.cuda}


def main(arguments: list[str] | None = None) -> int:
    """Import what runs need, then serve."""
    parser = argparse.ArgumentParser(prog="python -m pytest_gates.model.forkserver")
    parser.add_argument("--entry", default=ENTRY, help="module:name of what a run calls")
    parser.add_argument("--preload", nargs="*", default=PRELOAD, help="modules to import first")
    options = parser.parse_args(arguments)
    # Ctrl-C is for the owner, and what an import prints must not reach the owner as an answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reply_fd = os.dup(1)
    os.dup2(2, 1)
    for name in options.preload:
        importlib.import_module(name)
    module, _, function = options.entry.partition(":")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = Forkserver(getattr(importlib.import_module(module), function), reply_fd)
    gc.freeze()  # a collection in a child would write to, and so copy, every page it shares
    sys.stdout.flush()  # or each child would write it once more
    server.reply(ready=os.getpid(), **_versions())
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
