"""Checkpoints in the layout of Hugging Face: `config.json` beside safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.weights import Weights, misfit, refused

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
}
_KEYS = _SIZES | {
    "kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}
"""What `config.json` calls the fields of an architecture; others have one name."""
_FLOATS = {"F64", "F32", "F16", "BF16"}


def open_safetensors(path: Path, place: str) -> Weights:
    """Open a folder, or one file with its `config.json` beside it.

    Raises:
        RunRefusedError: CONFIG_REFUSED.
    """
    folder = path if path.is_dir() else path.parent
    architecture = architecture_of(_json(folder / "config.json", place), place)
    files = _files(path, place)
    shapes: dict[str, tuple[int, ...]] = {}
    types: set[str] = set()
    opened: dict[str, Any] = {}
    for file in files:
        handle = _open(file)
        for name in handle.keys():  # noqa: SIM118 - no mapping
            piece = handle.get_slice(name)
            shapes[name], opened[name] = tuple(piece.get_shape()), handle
            types.add(piece.get_dtype())
    if types - _FLOATS:
        raise refused(
            f"{place}: unsupported quantisation {', '.join(sorted(types - _FLOATS))}; "
            f"supported are {', '.join(sorted(_FLOATS))}"
        )

    def read(name: str) -> Tensor:
        tensor: Tensor = opened[name].get_tensor(name)
        return tensor

    beside = folder / "tokenizer.json"
    return Weights(
        place, architecture, shapes, read, frozenset(types), beside if beside.exists() else None
    )


def architecture_of(config: Mapping[str, Any], place: str) -> Architecture:
    """The architecture that a `config.json` describes.

    Raises:
        RunRefusedError: CONFIG_REFUSED, it is none that the forward path can carry out.
    """
    kind = config.get("model_type")
    if kind not in ("llama", "qwen2"):  # whatever it is: a set would ask for its hash
        raise refused(f"{place}: unknown architecture {kind!r}; known are llama, qwen2")
    rope = _rope(config, place)
    _refuse_variants(config, place)
    missing = [key for key in _SIZES.values() if config.get(key) is None]
    if missing:
        raise refused(f"{place}: config.json has no {', '.join(missing)}")
    try:
        architecture = Architecture(
            **{name: config[key] for name, key in _SIZES.items()},
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            rope_theta=rope.get("rope_theta") or config.get("rope_theta") or 10_000.0,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tied=config.get("tie_word_embeddings", False),
            attention_bias=kind == "qwen2",
            context=config.get("max_position_embeddings"),
        )
    except ValidationError as error:
        raise refused(f"{place}: config.json: {misfit(error, _KEYS)}") from None
    head_dim = config.get("head_dim") or architecture.head_dim
    if head_dim != architecture.head_dim:
        raise refused(
            f"{place}: heads of {head_dim!r}, hidden / heads is {architecture.head_dim}; "
            "only that is supported"
        )
    return architecture


def _rope(config: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """What the config says of the rotation, under either of its two names; none but the plain one.

    Raises:
        RunRefusedError: CONFIG_REFUSED, another rotation than that of the forward path.
    """
    said: dict[str, Any] = {}
    for key in ("rope_parameters", "rope_scaling"):
        found = config.get(key) or {}
        if not isinstance(found, dict):
            raise refused(f"{place}: config.json: {key} is no object")
        if any(isinstance(value, dict) for value in found.values()):
            raise refused(f"{place}: a rotation for each kind of layer is not supported")
        scaling = found.get("rope_type") or found.get("type") or "default"
        if scaling != "default":
            raise refused(f"{place}: rope scaling {scaling!r} is not supported")
        said |= found
    if said.get("partial_rotary_factor", config.get("partial_rotary_factor")) not in (None, 1):
        raise refused(f"{place}: a rotation of a part of each head is not supported")
    return said


def _refuse_variants(config: Mapping[str, Any], place: str) -> None:
    variants = {
        f"activation {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "a bias in the feed-forward layer": bool(config.get("mlp_bias")),
        "a bias in the attention of a Llama": bool(config.get("attention_bias")),
        "a sliding window": bool(config.get("use_sliding_window")),
    }
    for what, there in variants.items():
        if there:
            raise refused(f"{place}: {what} is not supported")


def _files(path: Path, place: str) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / _INDEX).exists():
        index = _json(path / _INDEX, place)
        where = index.get("weight_map")
        if not isinstance(where, dict):
            raise refused(f"{place}: {_INDEX} has no weight_map")
        names = sorted({str(name) for name in where.values()})
        for name in names:
            if Path(name).name != name or not (path / name).is_file():
                raise refused(f"{place}: {_INDEX} names {name}, which is not there")
        return [path / name for name in names]
    if not (path / _SINGLE).is_file():
        raise refused(f"{place}: has neither {_SINGLE} nor {_INDEX}")
    return [path / _SINGLE]


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except SafetensorError as error:
        raise refused(f"{file.name}: truncated, or no safetensors file: {error}") from None


def _json(path: Path, place: str) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise refused(f"{place}: has no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise refused(f"{place}: {path.name} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise refused(f"{place}: {path.name} is no JSON object")
    return content
