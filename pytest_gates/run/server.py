"""The forkserver as its owner sees it: started on demand, spoken to in lines, never left behind."""

from __future__ import annotations

import json
import os
import select
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest_gates
from pytest_gates.errors import RunError
from pytest_gates.model.forkserver import PRELOAD

ENTRY = "pytest_gates.run.entry:run_request"
"""What a forkserver of our own runs is told to call."""
_READY_S = 120.0
_CLOSE_S = 5.0
_CHUNK = 65536


class Server:
    """The forkserver's process; see `model.forkserver` for what is said."""

    torch: str | None
    """Version of torch, if it imported that; known once it is ready."""
    cuda: str | None
    """Version of CUDA that torch was built with."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        entry: str = ENTRY,
        preload: Sequence[str] = PRELOAD,
    ) -> None:
        """Start it; see `wait_ready`.

        Raises:
            RunError: it could not be started.
        """
        if not sys.executable:
            raise RunError("Python does not know its own path (sys.executable); start it by path")
        # -P: what lies in the working folder must not stand in for torch's own imports.
        command = [sys.executable, "-P", "-m", "pytest_gates.model.forkserver", "--entry", entry]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
        # Of a session of its own: Ctrl-C is answered by the owner, which then ends the runs.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, "--preload", *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environ,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()
        self._gone: RunError | None = None
        """What is told once it is dead or closed."""
        self._messages: dict[int | None, deque[dict[str, Any]]] = defaultdict(deque)
        self._rest = b""
        self._ready = False
        self._started_with = (entry, tuple(preload), dict(environ))

    def serves(self, *, entry: str, preload: Sequence[str], environ: Mapping[str, str]) -> bool:
        """Whether it was started with just these."""
        return self._started_with == (entry, tuple(preload), dict(environ))

    def wait_ready(self) -> None:
        """Wait until its imports are done; to be called once, before anything is said to it.

        Raises:
            RunError: it ended or hung in its imports. It is closed then.
        """
        try:
            ready = self._first_line()
        except BaseException:
            self.close()
            raise
        self.torch, self.cuda = ready["torch"], ready["cuda"]
        self._ready = True

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def send(self, **message: Any) -> None:
        """Say one line.

        Raises:
            RunError: the forkserver is dead.
        """
        with self._lock:
            if self._gone is not None:
                raise self._gone
            try:
                self._stdin.write((json.dumps(message) + "\n").encode())
                self._stdin.flush()
            except BrokenPipeError:
                raise self._dead() from None

    def receive(self, timeout_s: float, run_id: int | None = None) -> dict[str, Any] | None:
        """The next line about a run (None: about none), or None if none came in time.

        Lines about other runs are kept for whoever asks for them. Several threads may ask, each
        for its own run.

        Raises:
            RunError: the forkserver is dead.
        """
        mine = self._messages[run_id]
        if not mine:
            self._readable(timeout_s)  # outside of the lock: others have their own to wait for
        with self._lock:
            if self._gone is not None:
                raise self._gone
            if not mine and self._readable(0.0):
                self._read()
            return mine.popleft() if mine else None

    def _readable(self, timeout_s: float) -> bool:
        poll = select.poll()
        try:
            poll.register(self._stdout, select.POLLIN)
        except ValueError:  # closed by another thread
            return False
        return bool(poll.poll(timeout_s * 1e3))

    def _read(self) -> None:
        chunk = os.read(self._stdout.fileno(), _CHUNK)
        if not chunk:
            raise self._dead()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for message in map(json.loads, lines):
            self._messages[message.get("id")].append(message)

    def close(self) -> None:
        """End it, and with it every run that it started."""
        with self._lock:
            self._gone = RunError("the forkserver, which starts the runs, was ended")
            if not self._ready:  # it imports, without a look at stdin, and has no runs yet
                self._process.kill()
            self._stop()
            self._stdout.close()
            self._errors.close()

    def _stop(self) -> None:
        with suppress(BrokenPipeError):  # a line to a dead forkserver was still in the buffer
            self._stdin.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _first_line(self) -> dict[str, Any]:
        until = time.monotonic() + _READY_S
        while (left := until - time.monotonic()) > 0:
            message = self.receive(left)
            if message is not None:
                assert "ready" in message
                return message
        raise RunError(f"the forkserver was not ready after {_READY_S:.0f} s; {_REMEDY}")

    def _dead(self) -> RunError:
        self._stop()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        last = f": {said.splitlines()[-1]}" if said else ""
        self._gone = RunError(
            f"the forkserver, which starts the runs, ended with code "
            f"{self._process.returncode}{last}; {_REMEDY}"
        )
        return self._gone


_REMEDY = f"try `{Path(sys.executable).name} -c 'import torch'` in this environment"


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the forkserver and its runs.

    - The same `pytest_gates` is found, installed or not.
    - CUDA counts devices as NVML and nvidia-smi do, unless the user chose an order.
    - OpenBLAS starts no threads when numpy is imported: a fork beside threads is not safe.
    - Which of its items pytest is at does not concern them.
    """
    environ = {**base, "OPENBLAS_NUM_THREADS": "1"}
    environ.pop("PYTEST_CURRENT_TEST", None)
    environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert pytest_gates.__file__ is not None
    home = str(Path(pytest_gates.__file__).resolve().parent.parent)
    # Site-packages put on PYTHONPATH would come before the standard library.
    if home not in {*site.getsitepackages(), site.getusersitepackages()}:
        paths = [home, *filter(None, [base.get("PYTHONPATH")])]
        environ["PYTHONPATH"] = os.pathsep.join(paths)
    return environ
