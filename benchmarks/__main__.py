"""`python -m benchmarks [names | --gpu] [--within SECONDS]`: each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

ON_CPU = (
    "plugin_cost", "collect_contracts", "judge_recorded", "make_gates", "audit_speed",
    "write_back", "report_200", "cpu_step", "ddp_scaling", "trace_overhead", "command_cost",
    "emit_cost",
)  # fmt: skip
ON_GPU = (
    "checkpoint_write", "training_step", "witness_cost", "headline_gates", "decode_speed",
    "trace_7b", "emit_cost", "step_leads",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", help="left out: those that need no GPU")
    parser.add_argument("--gpu", action="store_true", help="those of a machine with a GPU")
    parser.add_argument("--within", metavar="SECONDS", help="begin no turn beyond; for each name")
    options = parser.parse_args()
    names = options.names or list(ON_GPU if options.gpu else ON_CPU)
    known = (*ON_CPU, *ON_GPU)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    within = [] if options.within is None else ["--within", options.within]
    commands = [[sys.executable, "-m", f"benchmarks.{name}", *within] for name in names]
    ends = [subprocess.run(command, check=False).returncode for command in commands]
    return int(any(ends))


if __name__ == "__main__":
    sys.exit(main())
