"""A process a run: started through the forkserver, watched to its end, ended when it must be.

What the process says goes to files in a staging folder; how it ended, how long it took and what the
witness saw is told from outside.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_gates.errors import RunError
from pytest_gates.evidence import Gpu, HostInfo, Rank, Witness
from pytest_gates.model.config import (
    CommandRun,
    ExecutedRun,
    PretrainRun,
    ProbeRun,
    Request,
    Run,
)
from pytest_gates.model.forkserver import PRELOAD
from pytest_gates.model.program import ENTRY as PROGRAM
from pytest_gates.run.counterexamples import Known
from pytest_gates.run.entry import imports_of
from pytest_gates.run.gpus import Gpus, NoGpuError, find_gpus
from pytest_gates.run.host import capability, host_info
from pytest_gates.run.process import Observe, OnLine, RunProcess
from pytest_gates.run.program import LIMITS, Limits, ProgramProcess, launch_of, program_of
from pytest_gates.run.server import ENTRY, Server, environment
from pytest_gates.run.staging import Staging
from pytest_gates.run.turns import TURN_STEPS, Turn, take_turns
from pytest_gates.run.witness import Observer, told_allocations

_PROBE_S = 60.0


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and what the process outside knows of it."""

    staging: Path
    """Folder of `run.json`, `log.txt` and `out/`; the caller removes it."""
    run_folder: bool
    """Whether the run made `out/`."""
    status: str
    """One of `model.telemetry.STATUSES`."""
    reason: str | None
    """What is known about an end that is not COMPLETED."""
    wall_ms: float
    """From the start of the process to its end."""
    pid: int
    started: str
    """UTC, ISO 8601."""
    witness: Witness
    host: HostInfo
    ranks: tuple[Rank, ...] = ()
    """The processes of a run that declares `launch`."""

    @property
    def out(self) -> Path:
        """The run's folder, whether it was made or not."""
        return self.staging / "out"


@dataclass(frozen=True)
class Order:
    """A run to be executed; see `Worker.execute`."""

    run: ExecutedRun | CommandRun
    fault: Mapping[str, Any] | None = None
    repetition: int = 0
    show_mib: tuple[int, ...] = ()
    resume_from: Path | None = None
    gpus: tuple[Gpu, ...] = ()
    """What it is pinned to; none: the GPUs that its device names."""
    known: Known = field(default_factory=dict)
    """Counterexamples that are tried before all others, by property."""


@dataclass(frozen=True)
class _Watched:
    """A run's process, and who watches it."""

    staging: Path
    process: RunProcess
    server: Server
    turn: Turn
    observe: Observe
    gpus: tuple[Gpu, ...]
    """One a rank, in order; none: it asks for none."""
    unseen: str | None


class Worker:
    """Executes runs, each in a process of its own."""

    def __init__(
        self,
        *,
        cache: Path,
        root: Path,
        gpus: Gpus | None = None,
        entry: str = ENTRY,
        preload: Sequence[str] = PRELOAD,
        limits: Limits = LIMITS,
        ended: threading.Event | None = None,
        early: Server | None = None,
    ) -> None:
        """Nothing is started before the first run.

        Args:
            cache: folder for staging and for tokenised corpora; made if need be.
            root: the project's root, for the paths of token shards.
            gpus: what NVML tells; None asks it when it is first needed.
            entry: `module:name` of what a run calls in its process.
            preload: modules that the forkserver imports once for all runs.
            limits: the most that a program of the team's own may write.
            ended: set once nobody asks for any run any more; those that go on are ended then.
            early: a forkserver that was started beforehand; it serves if the environment is
                still the same.
        """
        self.environ = environment(os.environ)
        self._cache = cache.absolute()
        self._staging = Staging(self._cache / "staging")
        self._root = root.absolute()
        self._gpus = gpus
        self._entry = entry
        self._preload = tuple(preload)
        self._limits = limits
        self._ended = ended or threading.Event()
        self._once = threading.RLock()
        """Held by whichever thread makes what all of them use."""
        self._early = early
        self._server: Server | None = None
        self._programs: Server | None = None
        """A forkserver that imports nothing: a program brings its own interpreter."""
        self._numbers = itertools.count(1)
        self._facts: Mapping[str, Any] | None = None

    @property
    def gpus(self) -> Gpus:
        """What NVML tells of this machine."""
        with self._once:
            if self._gpus is None:
                self._gpus = find_gpus()
            return self._gpus

    def execute(
        self,
        run: ExecutedRun | CommandRun,
        *,
        fault: Mapping[str, Any] | None = None,
        repetition: int = 0,
        show_mib: Sequence[int] = (),
        resume_from: Path | None = None,
        timeout_s: float | None = None,
        on_line: OnLine | None = None,
    ) -> Finished:
        """Execute a run and watch it to its end.

        Args:
            run: what to execute.
            fault: what to inject, as plain data.
            repetition: number of this execution of the same run.
            show_mib: sizes to allocate one after the other on a GPU for the witness to see
                (layer L3b); a run that asks for no GPU is not told.
            resume_from: folder of the checkpoints that the run continues from.
            timeout_s: seconds after which the run is ended with status TIMEOUT.
            on_line: called with each telemetry line.

        Raises:
            RunError: staging could not be written, or the forkserver is dead.
            SessionEndedError: `ended` was set.
            KeyboardInterrupt: and whatever else came meanwhile, `on_line`'s errors too; the run's
                processes are dead then, and its staging folder is gone.
        """
        order = Order(run, fault, repetition, tuple(show_mib), resume_from)
        return self.execute_in_turns([order], timeout_s=timeout_s, on_line=on_line)[0]

    def execute_in_turns(
        self,
        orders: Sequence[Order],
        *,
        turn_steps: int = TURN_STEPS,
        timeout_s: float | None = None,
        on_line: OnLine | None = None,
    ) -> list[Finished]:
        """Execute runs beside each other, all but one held; each goes `turn_steps` in its turn.

        A run alone is never held. Raises what `execute` does. Several threads may call it at once.
        """
        staged: list[Path] = []
        try:
            watched = []
            for order in orders:
                staged.append(self._stage())
                watched.append(self._watched(order, staged[-1], on_line))
            self._watch(watched, turn_steps, timeout_s)
        except BaseException:
            for folder in staged:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return [self._finished(one) for one in watched]

    def _watched(self, order: Order, staging: Path, on_line: OnLine | None) -> _Watched:
        run = order.run
        server = self._program_server() if isinstance(run, CommandRun) else self._started_server()
        # Of ranks each has a witness of its own, and what the server adopts may be another one's.
        adopts = server.pid if isinstance(run, CommandRun) and run.launch is None else None
        gpus, observe, unseen = self._witness_for(order, adopts)
        turn, number = Turn(on_line), next(self._numbers)
        process: RunProcess
        if isinstance(run, CommandRun):
            program = launch_of(run, order.fault, staging, self._root, gpus)
            _write_request(staging, program.to_json())
            with _writing(staging):
                (staging / "out").mkdir()
            process = ProgramProcess(
                server, number, staging, turn,
                run=run, root=self._root, fault=order.fault, limits=self._limits,
            )  # fmt: skip
        else:
            request = self._request(run, order, staging, watched=bool(gpus))
            _write_request(staging, request.model_dump_json())
            launch = run.launch if isinstance(run, PretrainRun) else None
            imports = imports_of(run, self.gpus.capability(gpus[0]) if gpus else None)
            told = request.allocations_mib
            process = RunProcess(
                server, number, staging, turn, told=told, launch=launch, imports=imports
            )
        return _Watched(staging, process, server, turn, observe, gpus, unseen)

    def _request(self, run: ExecutedRun, order: Order, staging: Path, *, watched: bool) -> Request:
        return Request(
            run=run,
            fault=None if order.fault is None else dict(order.fault),
            repetition=order.repetition,
            known=dict(order.known),
            allocations_mib=told_allocations(order.show_mib) if watched else (),
            visible=tuple(str(gpu.uuid) for gpu in order.gpus),
            control=str(staging / "control"),
            root=str(self._root),
            cache=str(self._cache),
            resume_from=None if order.resume_from is None else str(order.resume_from),
        )

    def why_not(self, run: Run) -> str | None:
        """Why this machine cannot execute the run, or None.

        Raises:
            RunError: torch could not be asked.
        """
        if isinstance(run, CommandRun):
            program = program_of(run, self._root)
            if isinstance(program, str):
                return program
        return capability(run, self.gpus, self.environ, self._devices_of_torch)

    def facts_of_machine(self) -> Mapping[str, Any]:
        """The facts of a probe run, made once: what torch sees, in a process that may touch CUDA.

        Raises:
            RunError: the probe did not complete.
        """
        if self._facts is None:
            facts: dict[str, Any] = {}

            def keep(line: Mapping[str, Any]) -> None:
                if line.get("kind") == "fact":
                    facts[line["name"]] = line["value"]

            finished = self.execute(ProbeRun(driver="probe"), timeout_s=_PROBE_S, on_line=keep)
            shutil.rmtree(finished.staging)
            if finished.status != "COMPLETED":
                raise RunError(
                    f"torch could not be asked for its devices: {finished.status}, "
                    f"{finished.reason}"
                )
            self._facts = facts
        return self._facts

    def close(self) -> None:
        """End the forkserver, if it was started, and let go of staging folders."""
        self._staging.close()
        for server in (self._early, self._server, self._programs):
            if server is not None:
                server.close()
        self._early = self._server = self._programs = None

    def _forget(self, dead: Sequence[Server]) -> None:
        with self._once:
            for server in dead:
                server.close()
            self._server = None if self._server in dead else self._server
            self._programs = None if self._programs in dead else self._programs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _finished(self, watched: _Watched) -> Finished:
        process, server = watched.process, watched.server
        driver = self.gpus.driver if watched.gpus else None
        status, reason = process.outcome()
        gpu = watched.gpus[0] if watched.gpus else None
        unwatched = Witness(unavailable=watched.unseen)
        return Finished(
            staging=watched.staging,
            run_folder=(watched.staging / "out").is_dir(),
            status=status,
            reason=reason,
            wall_ms=process.ended["wall_ms"],
            pid=process.ended["ended"],
            started=process.started,
            witness=process.witnesses.get(0, unwatched),
            host=host_info(gpu, driver, server.torch, server.cuda),
            ranks=tuple(
                Rank(
                    pid,
                    watched.gpus[rank] if rank < len(watched.gpus) else None,
                    process.witnesses.get(rank, unwatched),
                )
                for rank, pid in enumerate(process.rank_pids)
            ),
        )

    def _devices_of_torch(self) -> tuple[str, int]:
        facts = self.facts_of_machine()
        return facts["environment_state"], facts["cuda_devices"]

    def _stage(self) -> Path:
        with _writing(self._cache / "staging"):
            return self._staging.make()

    def _started_server(self) -> Server:
        with self._once:
            if self._server is None:
                self._server = self._ready_server(self._entry, self._preload)
            return self._server

    def _program_server(self) -> Server:
        with self._once:
            if self._programs is None:
                self._programs = self._ready_server(PROGRAM, ())
            return self._programs

    def _ready_server(self, entry: str, preload: Sequence[str]) -> Server:
        early = self._early
        if early is not None and early.serves(entry=entry, preload=preload, environ=self.environ):
            server, self._early = early, None  # if it dies, the next run starts another one
        else:
            server = Server(entry=entry, preload=preload, environ=self.environ)
        server.wait_ready()
        return server

    def _watch(self, watched: Sequence[_Watched], turn_steps: int, timeout_s: float | None) -> None:
        processes = [one.process for one in watched]
        try:
            for one in watched:
                if len(watched) > 1:
                    one.process.hold_before(0)
                one.process.start(one.observe, timeout_s)
            take_turns([(one.process, one.turn) for one in watched], turn_steps, self._ended)
        except RunError:  # the forkserver is dead; the next run starts another one
            for process in processes:
                process.kill_group()
            self._forget([one.server for one in watched])
            raise
        except BaseException:
            for process in processes:
                process.abandon()
            raise
        finally:
            for process in processes:
                process.close()

    def _witness_for(
        self, order: Order, adopts: int | None
    ) -> tuple[tuple[Gpu, ...], Observe, str | None]:
        """The GPUs of the run's ranks, who watches them, and why nobody does."""
        gpus = self.gpus
        try:
            own = order.gpus or gpus.of_ranks(order.run, self.environ)
        except NoGpuError as none:
            return (), lambda rank, pid, started_ns: None, str(none)
        handles = [gpus.handle(gpu) for gpu in own]

        def observe(rank: int, pid: int, started_ns: int) -> Observer | None:
            if rank >= len(handles):
                return None
            return Observer(gpus.nvml, handles[rank], pid, started_ns, adopts)

        return own, observe, None


def _write_request(staging: Path, request: str) -> None:
    with _writing(staging):
        (staging / "control").mkdir()
        (staging / "run.json").write_text(request, encoding="utf-8")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
