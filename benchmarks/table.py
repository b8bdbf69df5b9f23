"""The table of `README.md`, from the raw figures in `results/`: `python -m benchmarks.table`."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.measure import RESULTS, ROOT

README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
HEAD = "| what | goal | measured: median (range) | machine | command |\n|---|---|---|---|---|\n"
NOT_RUN = "not measured yet"

Row = tuple[str, str, str, tuple[tuple[str, str], ...]]
ROWS: tuple[Row, ...] = (
    ("a run without `--gates` pays for the plugin being installed", "10 ms", "plugin_cost",
     (("extra_cpu_ms", "{} ms CPU"), ("extra_wall_ms", "{} ms wall"))),
    ("collecting 170 contract files, torch not imported", "1.5 s", "collect_contracts",
     (("whole_process_wall_s", "{} s wall"), ("whole_process_cpu_s", "{} s CPU"))),
    ("1,000 gates judged, over plain items", "-", "judge_recorded",
     (("first_1000_ratio", "{} first"), ("again_1000_ratio", "{} again"))),
    ("10,000 gates judged, over plain items", "3, then 2", "judge_recorded",
     (("first_10000_ratio", "{} first"), ("again_10000_ratio", "{} again"))),
    ("100,000 gates judged, over plain items", "linear", "judge_recorded",
     (("first_100000_ratio", "{} first"),)),
    ("memory a further gate takes, 1,000 to 10,000 gates", "flat", "judge_recorded",
     (("plain_kib_a_gate_1000_to_10000", "{} KiB a plain item"),
      ("first_kib_a_gate_1000_to_10000", "{} KiB first"),
      ("again_kib_a_gate_1000_to_10000", "{} KiB again"))),
    ("`make gates`, environment ready", "60 s, 2 GiB", "make_gates",
     (("wall_s", "{} s wall"), ("tree_peak_mib", "{} MiB"))),
    ("four headline gates of the 370M to written verdicts", "45 s", "headline_gates",
     (("nothing_cached_wall_s", "{} s nothing cached"), ("caches_warm_wall_s", "{} s warm"))),
    ("driver `command`, beside the program's own wall time", "300 ms", "command_cost",
     (("first_added_ms", "{} ms first"), ("warm_added_ms", "{} ms warm"))),
    ("an emitter, over a loop without it", "1.01", "emit_cost", (("ratio", "{}"),)),
    ("the witness, over a run without it", "1.01", "witness_cost", (("ratio", "{}"),)),
)  # fmt: skip


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = "".join(map(_row, ROWS))
    README.write_text(f"{before}{BEGIN}\n{HEAD}{rows}{END}{after}", encoding="utf-8")


def _row(row: Row) -> str:
    what, goal, name, figures = row
    path = RESULTS / f"{name}.json"
    data: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = data.get("figures", {})
    told = [text.format(_figure(found[key])) for key, text in figures if key in found]
    machine = _machine(data["machine"]) if told else "-"
    measured = "; ".join(told) or NOT_RUN
    cells = (what, goal, measured, machine, f"`python -m benchmarks {name}`")
    return f"| {' | '.join(cells)} |\n"


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
    return f"{value:.3g}"


def _machine(machine: dict[str, Any]) -> str:
    parts = [*machine["gpus"], f"{machine['cores']} cores {machine['cpu']}".strip()]
    return ", ".join([*parts, f"Python {machine['python']}", f"load {machine['load_1m']}"])


if __name__ == "__main__":
    main()
