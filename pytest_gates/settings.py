"""What pytest's configuration says, as one frozen object that the rest of the program reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    import pytest

    from pytest_gates.contract.runs import Caps

RecordMode = Literal["changed", "always", "never"]
StaleMode = Literal["show", "red"]
CACHE_FOLDER = ".pytest_gates"
ASK_FIRST = frozenset({"command"})
"""Drivers that start what a contract names: allowed in pytest's configuration, never by it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Modes, folders and limits of one pytest session."""

    root: Path
    """The project's root; evidence paths are relative to it."""
    session: str
    """Shared by all xdist workers of one session."""
    record: RecordMode = "changed"
    replay: bool = False
    """Execute nothing."""
    recorded_only: bool = False
    """Read nothing but what records cite, not even the files of recorded runs."""
    strict: bool = False
    """BLOCKED and UNARMED are red."""
    live: bool = False
    """REPLAYED and BLOCKED are red."""
    stale: StaleMode = "show"
    """Whether a verdict that is SUSPECT is only shown, or red."""
    html: Path | None = None
    """Where the HTML report goes."""
    attest: Path | None = None
    """Where the in-toto statement goes."""
    timeout_s: float = 1800.0
    """For a run that declares none."""
    lock_timeout_s: float = 3600.0
    """How long to wait for a device that another process holds."""
    evidence_limit_mib: float = 16.0
    """Largest evidence of one run."""
    output_limit_mib: float = 64.0
    """Most that a program of driver `command` may print."""
    allow_drivers: frozenset[str] = frozenset()
    """Of `ASK_FIRST` those that are allowed."""
    cache_limit_mib: float = 2048.0
    """Size of the ignored cache of evidence that no record cites."""
    cpu_slots: int | None = None
    """Threads of runs on the CPU at once, over all sessions; None: as many as there are CPUs."""
    max_processes: int = 8
    max_steps: int = 100_000
    max_parameters: int = 20_000_000_000
    max_step_tokens: int = 4_194_304
    terminal: TextIO | None = None
    """Where a live line can be shown."""

    @cached_property
    def evidence(self) -> Path:
        """Folder of recorded evidence and of the ledger."""
        return self.root / "evidence"

    @cached_property
    def cache(self) -> Path:
        """Folder of everything that git does not see."""
        return self.root / CACHE_FOLDER

    @property
    def caps(self) -> Caps:
        """The most that a contract may ask for."""
        from pytest_gates.contract.runs import Caps  # noqa: PLC0415 - pydantic stays unloaded

        return Caps(self.max_steps, self.max_parameters, self.max_step_tokens, self.max_processes)

    def shown(self, path: Path) -> str:
        """A path as people see it: relative to the root where it lies below."""
        return (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )


INI_OPTIONS: dict[str, tuple[str, str]] = {
    "gates_stale": (
        "show",
        "what is done about a replayed verdict that is SUSPECT: show or red",
    ),
    "gates_timeout_s": ("1800", "seconds after which a run that declares no timeout_s is ended"),
    "gates_lock_timeout_s": ("3600", "seconds to wait for a device that another process holds"),
    "gates_evidence_limit_mib": ("16", "largest evidence of one run, in MiB"),
    "gates_output_limit_mib": (
        "64",
        "most that a program of driver `command` may print, in MiB",
    ),
    "gates_allow_drivers": (
        "",
        "drivers that may start programs that a contract names: command",
    ),
    "gates_cache_limit_mib": ("2048", "size of the cache of evidence that no record cites, in MiB"),
    "gates_cpu_slots": (
        "auto",
        "threads of runs on the CPU at once; auto: as many as there are CPUs",
    ),
    "gates_max_processes": ("8", "most processes on a node that a contract may start for a run"),
    "gates_max_steps": ("100000", "most steps a contract may ask for"),
    "gates_max_parameters": ("20000000000", "most parameters a contract may ask for"),
    "gates_max_step_tokens": ("4194304", "most tokens a step a contract may ask for"),
}
"""Options of pytest's configuration: default and help."""
WORDS = frozenset({"gates_stale", "gates_allow_drivers", "gates_cpu_slots"})
"""Those that may be words."""


def settings_from(config: pytest.Config, session: str, terminal: TextIO | None = None) -> Settings:
    """Read pytest's configuration for the session of that id.

    Raises:
        ValueError: an option is no positive number; the message names it.
    """
    numbers = {name: _positive(config, name) for name in INI_OPTIONS if name not in WORDS}
    slots = str(config.getini("gates_cpu_slots"))
    record = config.getoption("gates_record")
    if record is None:
        record = "never" if os.environ.get("CI") or config.getoption("gates_replay") else "changed"
    return Settings(
        root=config.rootpath,
        session=session,
        terminal=terminal,
        record=record,
        replay=config.getoption("gates_replay"),
        strict=config.getoption("gates_strict"),
        live=config.getoption("gates_live"),
        stale=_stale(config),
        html=_output(config, "gates_report"),
        attest=_output(config, "gates_attest"),
        timeout_s=numbers["gates_timeout_s"],
        lock_timeout_s=numbers["gates_lock_timeout_s"],
        evidence_limit_mib=numbers["gates_evidence_limit_mib"],
        output_limit_mib=numbers["gates_output_limit_mib"],
        allow_drivers=_allowed(config),
        cache_limit_mib=numbers["gates_cache_limit_mib"],
        cpu_slots=None if slots == "auto" else int(_positive(config, "gates_cpu_slots")),
        max_processes=int(numbers["gates_max_processes"]),
        max_steps=int(numbers["gates_max_steps"]),
        max_parameters=int(numbers["gates_max_parameters"]),
        max_step_tokens=int(numbers["gates_max_step_tokens"]),
    )


def _allowed(config: pytest.Config) -> frozenset[str]:
    named = str(config.getini("gates_allow_drivers")).replace(",", " ").split()
    for name in named:
        if name not in ASK_FIRST:
            raise ValueError(
                f"gates_allow_drivers names {name!r} in pytest's configuration: "
                f"expected {', '.join(sorted(ASK_FIRST))}; other drivers need no permission"
            )
    return frozenset(named)


def _stale(config: pytest.Config) -> StaleMode:
    text = str(config.getini("gates_stale"))
    if text not in {"show", "red"}:
        raise ValueError(f"gates_stale = {text!r} in pytest's configuration: expected show or red")
    return "red" if text == "red" else "show"


def _output(config: pytest.Config, option: str) -> Path | None:
    """A file to write, from where pytest was called."""
    named = config.getoption(option)
    return None if named is None else config.invocation_params.dir / named


def _positive(config: pytest.Config, name: str) -> float:
    text = str(config.getini(name))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} = {text!r} in pytest's configuration: expected a positive number")
    return value


def not_asked_for(config: pytest.Config) -> tuple[str, ...]:
    """Folders, as they were typed, of contracts that a session was given without `--gates`."""
    given = config.invocation_params
    typed = {arg.split("::")[0] for arg in given.args if not arg.startswith("-")}
    folders = set()
    for name in typed:
        path = given.dir / name
        files = path.glob("*.y*ml") if path.is_dir() else [path] * path.is_file()
        if any(_reads_as_contract(file) for file in files):
            folders.add(name if path.is_dir() else str(Path(name).parent))
    return tuple(sorted(folders))


def _reads_as_contract(file: Path) -> bool:
    if file.suffix not in {".yaml", ".yml"}:
        return False
    try:
        with file.open("rb") as text:
            return b"\ngates:" in text.read(2**20)
    except OSError:
        return False
