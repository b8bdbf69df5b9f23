"""The table of `README.md`, from the raw figures in `results/`: `python -m benchmarks.table`."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.measure import RESULTS, ROOT

README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
BEGIN_LEADS, END_LEADS = "<!-- leads -->", "<!-- end of leads -->"
HEAD = "| what | goal | measured: median (range) | machine | command |\n|---|---|---|---|---|\n"
HEAD_LEADS = "| choice | predicted | measured: median (range) |\n|---|---|---|\n"
NOT_RUN = "not measured yet"

Row = tuple[str, str, str, tuple[tuple[str, str], ...]]
ROWS: tuple[Row, ...] = (
    ("a run without `--gates` pays for the plugin being installed", "10 ms", "plugin_cost",
     (("extra_cpu_ms", "{} ms CPU"), ("extra_wall_ms", "{} ms wall"))),
    ("collecting 170 contract files, torch not imported", "1.5 s", "collect_contracts",
     (("whole_process_wall_s", "{} s wall"), ("whole_process_cpu_s", "{} s CPU"))),
    ("1,000 gates judged, over plain items", "-", "judge_recorded",
     (("first_1000_ratio", "{} first"), ("again_1000_ratio", "{} again"))),
    ("10,000 gates judged, over plain items", "2", "judge_recorded",
     (("first_10000_ratio", "{} first"), ("again_10000_ratio", "{} again"))),
    ("100,000 gates judged, over plain items", "linear", "judge_recorded",
     (("first_100000_ratio", "{} first"),
      ("first_cpu_ms_a_gate_1000_to_10000", "{} ms a further gate up to 10,000"),
      ("first_cpu_ms_a_gate_10000_to_100000", "{} ms up to 100,000"))),
    ("memory a further gate takes, 1,000 to 10,000 gates", "flat", "judge_recorded",
     (("plain_kib_a_gate_1000_to_10000", "{} KiB a plain item"),
      ("first_kib_a_gate_1000_to_10000", "{} KiB first"),
      ("again_kib_a_gate_1000_to_10000", "{} KiB again"))),
    ("`make gates`, environment ready", "240 s, 2 GiB", "make_gates",
     (("wall_s", "{} s wall"), ("tree_peak_mib", "{} MiB"))),
    ("audit of 100,000 records with 2 KiB of evidence each", "20 s", "audit_speed",
     (("audit_wall_s", "{} s wall"), ("audit_cpu_s", "{} s CPU"))),
    ("`history` of 100,000 records", "3 s", "audit_speed",
     (("history_wall_s", "{} s wall"), ("history_cpu_s", "{} s CPU"))),
    ("audit of this project's own contracts", "2 s", "audit_speed",
     (("own_audit_wall_s", "{} s wall"), ("own_audit_cpu_s", "{} s CPU"))),
    ("write-back of one verdict into a contract of 1 MiB", "300 ms", "write_back",
     (("dense_ms", "{} ms, 2,370 gates"), ("prose_ms", "{} ms, 40 gates"))),
    ("the report of 200 gates", "10 s, 6 MiB", "report_200",
     (("wall_s", "{} s wall"), ("cpu_s", "{} s CPU"), ("mib", "{} MiB"))),
    ("the ~1M training step on the CPU, over plain `torch.nn` layers", "1.0", "cpu_step",
     (("ratio_8x64", "{} (8 x 64)"), ("ratio_4x256", "{} (4 x 256)"))),
    ("four headline gates of the 370M to written verdicts", "20 s warm", "headline_gates",
     (("nothing_cached_wall_s", "{} s nothing cached"), ("caches_warm_wall_s", "{} s warm"))),
    ("driver `command`, beside the program's own wall time", "300 ms", "command_cost",
     (("first_added_ms", "{} ms first"), ("warm_added_ms", "{} ms warm"))),
    ("an emitter, over a loop without it", "1.01", "emit_cost", (("ratio", "{}"),)),
    ("370M training step, 16 x 512, over `transformers` compiled", "0.68", "training_step_16x512",
     (("ratio", "{}"), ("ours_ms", "{} ms"), ("peer_ms", "against {} ms"))),
    ("its share of the matmul ceiling of that run", "60 %", "training_step_16x512",
     (("share_of_ceiling_pct", "{} %"),)),
    ("deterministic mode over the fast one, 16 x 512", "1.10", "training_step_16x512",
     (("deterministic_ratio", "{}"),)),
    ("memory peak over `transformers` compiled, 16 x 512", "0.85", "training_step_16x512",
     (("memory_ratio", "{}"), ("ours_peak_mib", "{} MiB"))),
    ("process start to the end of step 0, nothing cached", "15 s", "training_step_16x512",
     (("step0_nothing_cached_s", "{} s"), ("peer_step0_nothing_cached_s", "peer {} s"))),
    ("the same, caches warm", "8 s", "training_step_16x512",
     (("step0_caches_warm_s", "{} s"), ("peer_step0_caches_warm_s", "peer {} s"))),
    ("the 16 x 512 step, earlier, before its own attention", "0.68", "training_step_16x512_h200",
     (("ratio", "{}"), ("ours_ms", "{} ms"), ("peer_ms", "against {} ms"),
      ("share_of_ceiling_pct", "{} % of the ceiling"))),
    ("370M training step, 1 x 2048, over `transformers` compiled", "0.40", "training_step_1x2048",
     (("ratio", "{}"), ("ours_ms", "{} ms"), ("peer_ms", "against {} ms"))),
    ("a checkpoint of the 370M, 4.2 GiB, over its slowest stage alone", "1", "checkpoint_write",
     (("whole over slowest stage", "{}"), ("whole s", "{} s"), ("write s", "disk {} s"),
      ("hash s", "hash {} s"), ("copy s", "copy {} s"))),
    ("witness and telemetry, over a loop with neither", "1.01", "witness_cost",
     (("ratio", "{}"), ("witness_ratio", "{} the witness alone"))),
    ("DDP, two Gloo processes over one, ~10M parameters, tokens a second", "1.6", "ddp_scaling",
     (("ratio", "{} times"), ("comm_share_pct", "{} % of a step gradients on their way"))),
    ("370M, batch 1: decoding 128 tokens, prompt and sampling included", "800 tokens/s",
     "decode_speed",
     (("decode_compiled_tokens_per_sec", "{} tokens/s compiled"),
      ("decode_graph_tokens_per_sec", "{} tokens/s eager"),
      ("decode_speedup_over_static", "{} times transformers, static cache, compiled"),
      ("decode_speedup_over_plain", "{} times transformers, plain"))),
    ("370M, batch 1: first token of a prompt of 2048", "8 ms", "decode_speed",
     (("prefill_compiled_ms", "{} ms compiled"), ("prefill_graph_ms", "{} ms eager"),
      ("prefill_speedup_over_plain", "{} times transformers, plain"))),
    ("a 7B built from its seed and traced, bf16", "10 s, 20 GiB", "trace_7b",
     (("wall_s", "{} s wall"), ("peak_mib", "{} MiB"))),
    ("a traced pass over an untraced one, 1M, CPU", "2", "trace_overhead",
     (("ratio_1m", "{}"), ("ratio_10m", "{} at 10M"))),
    ("a traced pass over an untraced one, 370M, GPU", "2", "trace_overhead_cuda",
     (("ratio_370m", "{}"),)),
)  # fmt: skip

COMMANDS = {
    "trace_overhead_cuda": "python -m benchmarks.trace_overhead --device cuda --tokens 512",
    "training_step_16x512": "python -m benchmarks training_step",
    "training_step_16x512_h200": "python -m benchmarks training_step",
    "training_step_1x2048": "python -m benchmarks training_step",
}
"""Where the name of the results is not that of the benchmark."""


PEER_ALONE_MS = {
    ("training_step_16x512", "NVIDIA H200"): 52.0,
    ("training_step_16x512", "NVIDIA H100 80GB HBM3"): 54.5,
    ("training_step_16x512_h200", "NVIDIA H200"): 52.0,
    ("training_step_1x2048", "NVIDIA H200"): 33.7,
}
"""What a peer takes on an idle machine of that kind: the H200's are those that the goals were set
by; the H100's is one measurement of another day, whose raw figures were not kept."""
NEAR = 0.05
"""A peer that is farther off was held back, or is another: its ratio is not told."""


PREDICTED, SAVED = ": predicted ms a step", ": ms a step"
"""How the figures of `step_leads` are named."""


def main() -> None:
    text = README.read_text(encoding="utf-8")
    text = _between(text, BEGIN, END, HEAD + "".join(map(_row, ROWS)))
    text = _between(text, BEGIN_LEADS, END_LEADS, _leads())
    README.write_text(text, encoding="utf-8")


def _between(text: str, begin: str, end: str, new: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{new}{end}{after}"


def _leads() -> str:
    path = RESULTS / "step_leads.json"
    if not path.exists():
        return f"{NOT_RUN.capitalize()}: `python -m benchmarks step_leads`, on a GPU.\n"
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    found = data["figures"]
    names = [key.removesuffix(PREDICTED) for key in found if key.endswith(PREDICTED)]
    rows = "".join(
        f"| {name} | {found[name + PREDICTED]:.3g} ms | {_figure(found[name + SAVED])} ms |\n"
        for name in names
    )
    return f"On {_machine(data['machine'])}:\n\n{HEAD_LEADS}{rows}"


def _row(row: Row) -> str:
    what, goal, name, figures = row
    path = RESULTS / f"{name}.json"
    data: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = data.get("figures", {})
    if name.startswith("training_step") and data and not _idle_peer(name, data):
        found = {key: value for key, value in found.items() if key != "ratio"}
    told = [text.format(_figure(found[key])) for key, text in figures if key in found]
    machine = _machine(data["machine"]) if told else "-"
    measured = "; ".join(told) or NOT_RUN
    command = COMMANDS.get(name, f"python -m benchmarks {name}")
    cells = (what, goal, measured, machine, f"`{command}`")
    return f"| {' | '.join(cells)} |\n"


def _idle_peer(name: str, data: dict[str, Any]) -> bool:
    (gpu,) = data["machine"]["gpus"]
    alone = PEER_ALONE_MS.get((name, gpu))
    return alone is not None and abs(data["figures"]["peer_ms"]["median"] / alone - 1) <= NEAR


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
    return f"{value:.3g}"


def _machine(machine: dict[str, Any]) -> str:
    parts = [*machine["gpus"], f"{machine['cores']} cores {machine['cpu']}".strip()]
    return ", ".join([*parts, f"Python {machine['python']}", f"load {machine['load_1m']}"])


if __name__ == "__main__":
    main()
