"""Decoding and prefill at batch 1 beside `transformers.generate` on the same weights, in turns.

    python -m benchmarks.decode_speed [--model llama-370m] [--tokens 128] [--rounds 15]

Two peers, neither held back: `generate` as it comes (a cache that grows), and with a static cache,
which `transformers` compiles by itself on a GPU. All sides hold the same bf16 weights, are greedy,
and are timed whole, from the prompt on the host to the last token on the host. Ours are measured
first, then beside each peer in turns, the plain one first; a ratio is one of neighbours. Figures
are reported after each part: under `--within` what was measured by then stays. What the sides
generated is compared: the tokens may part where two logits are equal in bf16, so the figure is
told, and nothing is refused by it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.measure import in_order, limited, report, spread, turns
from pytest_gates.model.architecture import PRESETS
from pytest_gates.model.compiled import CompiledBlocks
from pytest_gates.model.config import Decode
from pytest_gates.model.decode import Generator
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.transformer import Transformer, attention_backend, initialised

PROMPT = [i * 37 % 250 for i in range(32)]
WARM_UPS = 3
Side = Callable[[], tuple[list[int], float]]
"""Generates once: the tokens, and the seconds it took."""


def ours(model: Transformer, prompt: Sequence[int], tokens: int, *, compiled: bool) -> Side:
    """The program's own path, its graphs captured; with blocks under torch.compile or eager."""
    device = model.lm_head.weight.device
    dtype = model.lm_head.weight.dtype
    path = ForwardPath(model, device, dtype, attention_backend(model.architecture, device, dtype))
    before = model.model.run_block
    if compiled:
        model.model.run_block = CompiledBlocks()
    generator = Generator(path, Decode(tokens=tokens), len(prompt), 0)
    run_block, model.model.run_block = model.model.run_block, before

    def generate() -> tuple[list[int], float]:
        model.model.run_block = run_block
        done = generator.generate(prompt)
        model.model.run_block = before
        rest = 0.0 if done.decode_ms is None else done.decode_ms * (tokens - 1)
        return done.tokens, (done.ttft_ms + rest) / 1000

    return generate


def peer(model: Any, prompt: Sequence[int], tokens: int, *, static: bool) -> Side:
    """`transformers.generate`; the static cache compiles its decoding step."""
    settings: dict[str, Any] = {
        "max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0,
    }  # fmt: skip
    if static:
        settings["cache_implementation"] = "static"
    given = torch.tensor([prompt])

    def generate() -> tuple[list[int], float]:
        started = time.perf_counter()
        fed = given.to(model.device)
        out = model.generate(fed, attention_mask=torch.ones_like(fed), **settings)
        found = out[0, len(prompt) :].tolist()  # waits for the device
        return found, time.perf_counter() - started

    return generate


def transformers_model(model: Transformer) -> Any:
    """The same weights in `transformers`, on the same device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, weight = model.architecture, model.lm_head.weight
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, max_position_embeddings=4096,
        rms_norm_eps=float(shape.norm_eps), tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": float(shape.rope_theta)},
        bos_token_id=None, eos_token_id=None, pad_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    other = LlamaForCausalLM(config).to(weight.device, weight.dtype).eval()
    other.load_state_dict(model.state_dict())
    return other


def measured(
    sides: dict[str, Side], rounds: int, within_s: float | None
) -> dict[str, list[tuple[list[int], float]]]:
    """Each side warmed up, then all in turns, in the other order every second time."""
    for name, side in sides.items():
        started = time.perf_counter()
        for _ in range(WARM_UPS):
            side()
        print(f"  {name} warm after {time.perf_counter() - started:.1f} s", flush=True)
    found: dict[str, list[tuple[list[int], float]]] = {name: [] for name in sides}
    for number in turns(rounds, within_s):
        for name in in_order(sides, number):
            found[name].append(sides[name]())
    return found


def agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens before the first that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


class Told:
    """The figures so far; `name` is the peer that a part was measured beside, or empty."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._first: dict[str, list[int]] = {}
        self.figures: dict[str, Any] = {}
        self.raw: dict[str, list[float]] = {}

    def add(self, what: str, name: str, found: dict[str, list[tuple[list[int], float]]]) -> None:
        """What one part measured, and the ratio of neighbours."""
        seconds = {side: [s for _, s in many] for side, many in found.items()}
        for side, times in seconds.items():
            key = f"{what}_{side}"
            if f"{key}_s" in self.raw:  # ours again, beside a peer
                self.raw[f"{key}_beside_{name}_s"] = times
                continue
            self.raw[f"{key}_s"] = times
            if what == "decode":
                rates = [self._tokens / s for s in times]
                self.figures[f"{key}_tokens_per_sec"] = spread(rates)
            else:
                self.figures[f"{key}_ms"] = spread([1000 * s for s in times])
            first = found[side][0][0]
            graph = self._first.setdefault(what, first)
            if side != "graph":
                self.figures[f"{what}_tokens_like_graph_{side}"] = agreeing(graph, first)
        if name:
            pairs = zip(seconds[f"transformers_{name}"], seconds["compiled"], strict=True)
            self.figures[f"{what}_speedup_over_{name}"] = spread([a / b for a, b in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="llama-370m", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prefill", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", default="plain,static", help="of plain and static, or none")
    asked = limited(parser)
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device on this machine")
    warnings.filterwarnings("ignore")
    device = torch.device(asked.device)
    model = initialised(PRESETS[asked.model], device, 0, torch.bfloat16).eval()
    peers = [name for name in asked.peers.split(",") if name in {"plain", "static"}]
    if peers and importlib.util.find_spec("transformers") is None:
        print("transformers is not there: no peers, no ratios")
        peers = []
    other: Any = None
    long = [PROMPT[i % len(PROMPT)] for i in range(asked.prefill)]
    told = Told(asked.tokens)
    own: dict[str, dict[str, Side]] = {}
    begun = time.monotonic()
    for name in ("", *peers):
        for what, prompt, tokens in (("decode", PROMPT, asked.tokens), ("prefill", long, 1)):
            if name and asked.within and time.monotonic() - begun > asked.within:
                print(f"the time is up before {what} of transformers {name}")
                return
            print(what, name, flush=True)
            if name:
                other = other or transformers_model(model)
                beside = peer(other, prompt, tokens, static=name == "static")
                sides = {"compiled": own[what]["compiled"], f"transformers_{name}": beside}
            else:
                own[what] = sides = {
                    "graph": ours(model, prompt, tokens, compiled=False),
                    "compiled": ours(model, prompt, tokens, compiled=True),
                }
            # A share for each part; warming up, which compiles, is not counted in.
            share = asked.within and asked.within / (2 + 2 * len(peers))
            told.add(what, name, measured(sides, asked.rounds, share))
            report("decode_speed", told.figures, told.raw)


if __name__ == "__main__":
    main()
