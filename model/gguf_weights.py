"""GGUF files (ggml-org/ggml, docs/gguf.md), memory-mapped, under the names of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.weights import Weights, misfit, refused

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_KEYS = {
    "hidden": "embedding_length",
    "layers": "block_count",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "intermediate": "feed_forward_length",
    "rope_theta": "rope.freq_base",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "context": "context_length",
}
"""What the file calls the fields of an architecture, after the name of its family."""
_SUPPORTED = ("F32", "F16", "BF16", "Q8_0")


def open_gguf(path: Path, place: str) -> Weights:
    """Open a GGUF file.

    Raises:
        RunRefusedError: CONFIG_REFUSED.
    """
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - an extra
    except ImportError:
        raise refused(f"{place}: GGUF needs the extra pytest-gates[gguf]") from None
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise refused(f"{place}: truncated, or no GGUF file: {_one_line(error)}") from None
    tensors = {_name(tensor.name): tensor for tensor in reader.tensors}
    for name, tensor in tensors.items():
        if tensor.tensor_type.name not in _SUPPORTED:
            raise refused(
                f"{place}: unsupported quantisation {tensor.tensor_type.name} of {name}; "
                f"supported are {', '.join(_SUPPORTED)}"
            )
    kind, architecture = _architecture(reader, tensors, place)

    def read(name: str) -> Tensor:
        heads = {"q_proj.weight": architecture.heads, "k_proj.weight": architecture.kv_heads}
        values = _values(tensors[name])
        group = heads.get(".".join(name.split(".")[-2:])) if kind == "llama" else None
        return values if group is None else _unpaired(values, group)

    shapes = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in tensors.items()}
    types = frozenset(tensor.tensor_type.name for tensor in tensors.values())
    beside = path.parent / "tokenizer.json"
    return Weights(place, architecture, shapes, read, types, beside if beside.exists() else None)


def _name(name: str) -> str:
    """The Hugging Face name of a tensor; one that has none keeps its own."""
    parts = name.split(".")
    if parts[0] == "blk" and parts[-2] in _BLOCK:
        return f"model.layers.{parts[1]}.{_BLOCK[parts[-2]]}.{parts[-1]}"
    return _OUTSIDE.get(name, name)


def _architecture(
    reader: GGUFReader, tensors: dict[str, ReaderTensor], place: str
) -> tuple[str, Architecture]:
    kind = _field(reader, "general.architecture", place)
    if kind not in ("llama", "qwen2"):  # whatever it is: a set would ask for its hash
        raise refused(f"{place}: unknown architecture {kind!r}; known are llama, qwen2")

    def said(key: str, default: Any = None) -> Any:
        return _field(reader, f"{kind}.{key}", place, default)

    scaled = said("rope.scaling.type", "none") != "none" or said("rope.scale_linear", 1.0) != 1.0
    if scaled or "rope_freqs.weight" in tensors:
        raise refused(f"{place}: rope scaling is not supported")
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise refused(f"{place}: 1 tensor missing: model.embed_tokens.weight")
    sizes = {name: said(_KEYS[name]) for name in ("hidden", "layers", "heads", "intermediate")}
    try:
        architecture = Architecture(
            **sizes,
            kv_heads=said(_KEYS["kv_heads"], sizes["heads"]),
            vocab=int(embedding.shape[-1]),
            rope_theta=said(_KEYS["rope_theta"], 10_000.0),
            norm_eps=said(_KEYS["norm_eps"], 1e-5),
            tied="lm_head.weight" not in tensors,
            attention_bias=kind == "qwen2",
            context=said(_KEYS["context"], 0) or None,
        )
    except ValidationError as error:
        raise refused(f"{place}: {misfit(error, _KEYS)}") from None
    rotated = said("rope.dimension_count", architecture.head_dim)
    if rotated != architecture.head_dim:
        raise refused(
            f"{place}: rotates {rotated} of each head's {architecture.head_dim} channels; "
            "only all of them are supported"
        )
    return kind, architecture


def _field(reader: GGUFReader, key: str, place: str, default: Any = None) -> Any:
    found = reader.get_field(key)
    if found is not None:
        return found.contents()
    if default is None:
        raise refused(f"{place}: has no {key}")
    return default


def _values(tensor: ReaderTensor) -> Tensor:
    from gguf import dequantize  # noqa: PLC0415 - an extra

    if tensor.tensor_type.name in {"F32", "F16"}:
        return torch.from_numpy(np.array(tensor.data))
    return torch.from_numpy(np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type)))


def _unpaired(values: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows: it rotates pairs (2i, 2i + 1), we (i, i + D/2)."""
    rows = values.shape[0]
    pairs = values.view(heads, rows // heads // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(rows, -1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
