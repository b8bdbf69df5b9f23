"""Every pytest hook, and no logic. Imports nothing heavy: most sessions never use `--gates`."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import uuid
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from pytest_gates.errors import RunError
from pytest_gates.settings import INI_OPTIONS, not_asked_for, settings_from

if TYPE_CHECKING:
    from pytest_gates.items import ContractFile
    from pytest_gates.run.server import Server
    from pytest_gates.session import GatesSession

SESSION_HOOKS = "gates-session"
SESSION: pytest.StashKey[GatesSession] = pytest.StashKey()
RESULTS_A_FREEZE = 256
"""Results, with pytest's reports of them, that are frozen at once where gates alone are judged."""
NEW_OBJECTS = 50_000
"""Objects made and kept since garbage was last looked for that begin the next look."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gates", "contracts about GPU training")
    group.addoption(
        "--gates",
        action="append",
        metavar="PATH",
        default=[],
        dest="gates",
        help="collect the contracts below PATH as pytest items (repeatable)",
    )
    group.addoption("--gates-record", choices=("changed", "always", "never"), dest="gates_record",
                    help="write verdicts back: when changed (default), always, or never (default "
                         "where CI is set: prints the diff it would write)")  # fmt: skip
    group.addoption("--gates-replay", action="store_true", dest="gates_replay",
                    help="execute nothing, judge recorded evidence only")  # fmt: skip
    group.addoption("--gates-strict", action="store_true", dest="gates_strict",
                    help="BLOCKED and UNARMED gates are red")  # fmt: skip
    group.addoption("--gates-live", action="store_true", dest="gates_live",
                    help="REPLAYED and BLOCKED gates are red")  # fmt: skip
    group.addoption("--gates-report", metavar="FILE", dest="gates_report",
                    help="write the HTML report there (needs pytest-gates[report])")  # fmt: skip
    group.addoption("--gates-attest", metavar="FILE", dest="gates_attest",
                    help="write an unsigned in-toto test-result statement there")  # fmt: skip
    for name, (default, text) in INI_OPTIONS.items():
        parser.addini(name, text, default=default)


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    # Added here, for setting `config.args` later collects the wrong items under xdist; and only
    # if no argument names something below the folder, for a node id must not collect everything.
    options = early_config.known_args_namespace
    here = early_config.invocation_params.dir
    named = [(here / arg.split("::")[0]).resolve() for arg in options.file_or_dir]
    for folder in getattr(options, "gates", ()):
        path = (here / folder).resolve()
        if not path.exists():
            raise pytest.UsageError(f"--gates {folder}: there is no such file or folder")
        if not any(name.is_relative_to(path) for name in named):
            args.append(folder)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("gates"):
        return
    config.addinivalue_line("markers", "ship_blocking: the gate blocks a release")
    config.addinivalue_line("markers", "falsifier: an attempt to prove a gate wrong")
    if config.getoption("gates_report") is not None:
        _require_report_extra()
    config.pluginmanager.register(SessionHooks(config), SESSION_HOOKS)
    # After pytest's own last collections, which would look through all contracts once more.
    config.add_cleanup(gc.unfreeze)
    # Reports and results stay to the end: to look for garbage at each 700 new objects finds none.
    config.add_cleanup(partial(gc.set_threshold, *gc.get_threshold()))
    # While Python takes its modules apart it looks through all objects four times, to give back
    # memory that the system takes back as a whole.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def _require_report_extra() -> None:
    from pytest_gates.report.html import require_extra  # noqa: PLC0415 - heavy

    try:
        require_extra()
    except ValueError as error:
        raise pytest.UsageError(f"--gates-report: {error}") from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ContractFile | None:
    config = parent.config
    if file_path.suffix not in {".yaml", ".yml"} or not config.getoption("gates"):
        return None
    here = config.invocation_params.dir
    folders = [(here / folder).resolve() for folder in config.getoption("gates")]
    if not any(file_path.resolve().is_relative_to(folder) for folder in folders):
        return None  # other plugins' YAML is not ours
    from pytest_gates.items import ContractFile  # noqa: PLC0415 - heavy: pydantic, yaml

    file: ContractFile = ContractFile.from_parent(parent, path=file_path)
    return file


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    nothing = {pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR}
    if exitstatus in nothing and not config.getoption("gates"):
        for folder in not_asked_for(config):
            terminalreporter.line(f"contracts are items of `pytest --gates {folder}` only")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # Taken from the item, which stays to the end; the report has all of it.
    result = vars(item).pop("gates_result", None) if call.when == "call" else None
    if result is not None:
        report.gates = result.to_json()  # type: ignore[attr-defined]  # xdist carries it along
        if report.skipped and not result.waived:
            report.longrepr = (result.contract, result.line, result.reason)
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, Any] | None:
    gates = getattr(report, "gates", None)
    if gates is None or report.when != "call":
        return None
    # Any category but `failed` and `skipped` would hide the reason in the short summary.
    status, mode = gates["status"], gates["mode"]
    if report.failed:
        only_replayed = mode == "REPLAYED" and status in {"PASS", "CAUGHT"}
        word = mode if only_replayed else status
        return "failed", word[0], word
    if gates["waived"]:
        return "xfailed", "x", (f"{status} WAIVED", {"yellow": True})
    if report.skipped:
        return "skipped", "b", (status, {"yellow": True})
    if mode == "REPLAYED":
        return "replayed", "R", (f"{status} REPLAYED", {"green": True})
    return "passed", ".", status


class SessionHooks:
    """Hooks of one session that uses `--gates`: collects results, finishes, summarises."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results: list[dict[str, Any]] = []
        self.controller = not hasattr(config, "workerinput")
        self.session = getattr(config, "workerinput", {}).get("gates_session") or uuid.uuid4().hex
        """The same for the controller and all its workers."""
        self.others = False
        """Whether items of others were run as well."""
        self.terminal: TextIO | None = None
        # Opened here: while items are collected and run, pytest captures the descriptor.
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            self.terminal = os.fdopen(os.dup(sys.__stdout__.fileno()), "w", encoding="utf-8")
        try:
            self.settings = settings_from(config, self.session, self.terminal)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        self.forkserver = self._early_forkserver()

    def _early_forkserver(self) -> Server | None:
        """Where all is executed that is judged, torch is imported beside our own modules."""
        option = self.config.getoption
        executes = self.settings.live and not (self.settings.replay or option("collectonly"))
        if not executes or option("dist", "no") != "no":  # xdist's workers execute
            return None
        from pytest_gates.run.server import Server, environment  # noqa: PLC0415 - most need none

        try:
            server = Server(environ=environment(os.environ))
        except (RunError, OSError):
            return None  # it is told where a run is due
        self.config.add_cleanup(server.close)
        return server

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # xdist's hook, in the controller
        node.workerinput["gates_session"] = self.session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if SESSION not in self.config.stash or self.config.getoption("collectonly"):
            return  # no contract was met, or none is judged
        # A worker of xdist learns only as it goes which items are its own.
        if not hasattr(self.config, "workerinput"):
            from pytest_gates.items import plan  # noqa: PLC0415 - heavy

            plan(session)
        gc.freeze()  # contracts and records stay to the end: no collection need look through them

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        gates = getattr(report, "gates", None)
        if gates is None:
            self.others = self.others or report.when == "call"
            return
        self.results.append(gates)
        if not self.others and len(self.results) % RESULTS_A_FREEZE == 0:
            gc.freeze()  # they stay to the end
        if report.failed:
            from pytest_gates.report.failure import RedItem  # noqa: PLC0415 - heavy

            report.longrepr = RedItem(gates)  # type: ignore[assignment]  # what pytest asks of one

    def pytest_sessionfinish(self) -> None:
        if self.results and self.controller:
            from pytest_gates.items import gates_session  # noqa: PLC0415 - heavy

            gates_session(self.config).finish(self.results)
        gates = self.config.stash.get(SESSION, None)
        if gates is not None:
            gates.close()
        if self.terminal is not None:
            self.terminal.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        # pytest collects several times now, so that each finalizer has its say. Once finds all
        # there is: what survives is in use, and frozen it need not be looked through again. Where
        # gates alone were judged, nobody left anything to be found.
        if self.others:
            gc.collect()
        gc.freeze()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        gates = self.config.stash.get(SESSION, None)
        if gates is not None and self.results:
            gates.summarise(terminalreporter)
