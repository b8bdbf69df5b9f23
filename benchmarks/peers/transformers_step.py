"""The training step of the 370M as a user of `transformers` writes it; prints one JSON object.

LlamaForCausalLM, torch.compile, bf16 autocast over fp32 weights, SDPA, fused AdamW, TF32 where it
applies, clipping; nothing else. Times are those of events on the device from one step's end to the
next one's, as in our own telemetry.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_gates.model.architecture import PRESETS


def process_age_s() -> float:
    """Seconds since this process began (proc_pid_stat(5), field 22), imports included."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def build(seq_len: int) -> LlamaForCausalLM:
    shape = PRESETS["llama-370m"]
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=seq_len,
        rms_norm_eps=float(shape.norm_eps),
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        return LlamaForCausalLM(config).float().train()


def ceiling_tflops(size: int = 8192, repetitions: int = 20) -> float:
    """What a large bf16 matrix product reaches on random data."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(repetitions + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.mm(a, b)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return 2 * size**3 / sorted(times[3:])[repetitions // 2] / 1e9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seq-len", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--eager", action="store_true", help="torch.compile switched off")
    asked = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    model = build(asked.seq_len)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    forward = model if asked.eager else torch.compile(model)
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (asked.batch_size, asked.seq_len)
    marks: list[torch.cuda.Event] = []
    losses: list[torch.Tensor] = []
    step0_s = 0.0
    for step in range(asked.steps):
        tokens = torch.randint(0, 50257, shape, device="cuda", generator=generator)
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
        if step == 0:
            torch.cuda.synchronize()
            step0_s = process_age_s()
    torch.cuda.synchronize()
    print(
        json.dumps(
            {
                "step0_s": step0_s,
                "wall_ms": [a.elapsed_time(b) for a, b in pairwise(marks)],
                "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
                "last_loss": losses[-1].item(),
                "ceiling_tflops": ceiling_tflops(),
            }
        )
    )


if __name__ == "__main__":
    main()
