"""`python -m benchmarks [names | --gpu]`: each benchmark in a process of its own, one by one."""

from __future__ import annotations

import subprocess
import sys

ON_CPU = (
    "plugin_cost", "collect_contracts", "judge_recorded", "make_gates", "audit_speed",
    "write_back", "report_200", "cpu_step", "ddp_scaling", "trace_overhead", "command_cost",
    "emit_cost",
)  # fmt: skip
ON_GPU = (
    "checkpoint_write", "training_step", "witness_cost", "headline_gates", "decode_speed",
    "trace_7b",
)  # fmt: skip


def main() -> int:
    names = sys.argv[1:] or list(ON_CPU)
    if names == ["--gpu"]:
        names = list(ON_GPU)
    known = (*ON_CPU, *ON_GPU)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    ends = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        for name in names
    ]
    return int(any(ends))


if __name__ == "__main__":
    sys.exit(main())
