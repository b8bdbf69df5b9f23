"""The state of a fused run: flat buffers, and views on them under the unfused names."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pytest_gates.model.config import Architecture
from pytest_gates.model.memory import LANES
from pytest_gates.model.transformer import Transformer


class FusedState:
    """Weights (bf16), gradients (bf16), masters and both moments (fp32), each one flat buffer.

    Matrices come first and norms last, so that one number tells what is decayed. q, k and v are
    one matrix, gate and up another; `named` cuts them apart again.
    """

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        assert not architecture.tied, "the fused step keeps two matrices for the vocabulary"
        self.architecture = architecture
        self.padded_vocab = -(-architecture.vocab // LANES) * LANES
        self.shapes = _shapes(architecture, self.padded_vocab)
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.size = sum(sizes.values())
        self.decayed = sum(sizes[name] for name, shape in self.shapes.items() if len(shape) > 1)
        self.weights = torch.zeros(self.size, dtype=torch.bfloat16, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.masters = torch.zeros(self.size, device=device)
        self.first = torch.zeros_like(self.masters)
        self.second = torch.zeros_like(self.masters)
        self.w = self._views(self.weights)
        """bf16 weights by fused name."""
        self.g = self._views(self.gradients)
        """bf16 gradients by fused name."""

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        views, start = {}, 0
        for name, shape in self.shapes.items():
            end = start + math.prod(shape)
            views[name] = flat[start:end].view(shape)
            start = end
        return views

    def stacked(self, name: str, first: int, count: int) -> Tensor:
        """Gradients of a matrix in `count` layers from `first` on: count OUT IN."""
        start, following = self.g[f"{first}.{name}"], self.g.get(f"{first + 1}.{name}")
        apart = following.storage_offset() - start.storage_offset() if following is not None else 0
        return start.as_strided((count, *start.shape), (apart, *start.stride()))

    def named(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Views on a flat buffer under the unfused Hugging Face names, padding cut off."""
        views, a = self._views(flat), self.architecture
        yield "model.embed_tokens.weight", views["embed"]
        for layer in range(a.layers):
            at = f"model.layers.{layer}"
            width = a.kv_heads * a.head_dim
            q, k, v = views[f"{layer}.qkv"].split((a.hidden, width, width))
            gate, up = views[f"{layer}.gate_up"].chunk(2)
            yield f"{at}.input_layernorm.weight", views[f"{layer}.norm_1"]
            yield f"{at}.self_attn.q_proj.weight", q
            yield f"{at}.self_attn.k_proj.weight", k
            yield f"{at}.self_attn.v_proj.weight", v
            yield f"{at}.self_attn.o_proj.weight", views[f"{layer}.out"]
            yield f"{at}.post_attention_layernorm.weight", views[f"{layer}.norm_2"]
            yield f"{at}.mlp.gate_proj.weight", gate
            yield f"{at}.mlp.up_proj.weight", up
            yield f"{at}.mlp.down_proj.weight", views[f"{layer}.down"]
        yield "model.norm.weight", views["norm"]
        yield "lm_head.weight", views["head"][: a.vocab]

    @torch.no_grad()
    def load(self, model: Transformer) -> None:
        """Take the parameters of a model as masters, and round them to weights."""
        values = dict(model.named_parameters())
        for name, view in self.named(self.masters):
            view.copy_(values[name])
        self.weights.copy_(self.masters)


def _shapes(a: Architecture, padded_vocab: int) -> dict[str, tuple[int, ...]]:
    matrices: dict[str, tuple[int, ...]] = {
        "embed": (a.vocab, a.hidden),
        "head": (padded_vocab, a.hidden),
    }
    norms: dict[str, tuple[int, ...]] = {}
    for layer in range(a.layers):
        matrices |= {
            f"{layer}.qkv": ((a.heads + 2 * a.kv_heads) * a.head_dim, a.hidden),
            f"{layer}.out": (a.hidden, a.hidden),
            f"{layer}.gate_up": (2 * a.intermediate, a.hidden),
            f"{layer}.down": (a.hidden, a.intermediate),
        }
        norms |= {f"{layer}.norm_1": (a.hidden,), f"{layer}.norm_2": (a.hidden,)}
    return matrices | norms | {"norm": (a.hidden,)}
