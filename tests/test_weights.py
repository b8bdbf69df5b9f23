"""Checkpoints of both families: the logits of transformers, and one clear line for each flaw."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TOKENS, gguf_of, saved
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from pytest_gates.model.config import Decode
from pytest_gates.model.prompt import fed, refuse_unfit
from pytest_gates.model.reference import reference_logits
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.weights import loaded, open_weights

CPU = torch.device("cpu")


def _logits(root: Path, location: str) -> Tensor:
    model = loaded(open_weights(root, location), CPU, torch.float32).eval()
    with torch.no_grad():
        found: Tensor = model(TOKENS)
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_agree_with_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    expected = saved(tmp_path / "m", family, tied)
    torch.testing.assert_close(_logits(tmp_path, "m"), expected, rtol=0, atol=1e-5)
    model = loaded(open_weights(tmp_path, "m"), CPU, torch.float32)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert (model.get_submodule("model.layers.0.self_attn.q_proj").bias is None) is (
        family == "llama"
    )


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_plain_reference_is_the_same_model(tmp_path: Path, family: str) -> None:
    """With the biases of Qwen2, which a model that was just initialised has at zero."""
    expected = saved(tmp_path / "m", family, False)
    weights = open_weights(tmp_path, "m")
    parameters = {name: weights.read(name) for name in weights.shapes}
    found = reference_logits(weights.architecture, parameters, TOKENS[0])
    torch.testing.assert_close(found[None], expected, rtol=0, atol=1e-5)


def test_shards_behind_an_index_and_another_rope_base(tmp_path: Path) -> None:
    rope = {"rope_theta": 50.0, "rope_type": "default"}
    expected = saved(tmp_path / "m", "qwen2", False, shard="60KB", rope_parameters=rope)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    assert open_weights(tmp_path, "m").architecture.rope_theta == 50.0
    torch.testing.assert_close(_logits(tmp_path, "m"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "atol"), [("F32", 1e-5), ("F16", 0.02), ("Q8_0", 0.3)])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gguf_is_the_same_model(tmp_path: Path, family: str, kind: str, atol: float) -> None:
    expected = saved(tmp_path / "m", family, family == "qwen2")
    gguf_of(tmp_path / "m.gguf", tmp_path / "m", family, kind)
    assert kind in open_weights(tmp_path, "m.gguf").types
    torch.testing.assert_close(_logits(tmp_path, "m.gguf"), expected, rtol=0, atol=atol)


def _refusal(root: Path, location: str) -> str:
    with pytest.raises(RunRefusedError) as caught:
        open_weights(root, location)
    assert caught.value.status == "CONFIG_REFUSED"
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    saved(folder / "m", "llama", False)
    return folder / "m"


def _changed(root: Path, checkpoint: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the checkpoint with another config; its tensors."""
    (root / "m").mkdir()
    said = json.loads((checkpoint / "config.json").read_text())
    (root / "m" / "config.json").write_text(json.dumps(said | (config or {})))
    (root / "m" / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "m: unknown architecture 'mamba'; known are llama, qwen2"),
        ({"hidden_act": "gelu"}, "m: activation 'gelu' is not supported"),
        ({"head_dim": 32}, "m: heads of 32, hidden / heads is 16"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "m: rope scaling 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "m: rope scaling 'linear' is not supported"),
        ({"rope_parameters": "yarn"}, "m: config.json: rope_parameters is no object"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "m: a rotation for each kind of layer is not supported",
        ),
        ({"partial_rotary_factor": 0.5}, "m: a rotation of a part of each head is not supported"),
        ({"model_type": ["llama"]}, "m: unknown architecture ['llama']; known are llama, qwen2"),
        ({"rms_norm_eps": "1e-5"}, "m: config.json: rms_norm_eps: Input should be a valid number"),
        ({"hidden_size": 0}, "m: config.json: hidden_size: Input should be greater than or"),
        ({"vocab_size": None}, "m: config.json has no vocab_size"),
        ({"num_attention_heads": 5}, "m: config.json: Value error, hidden 64 is not divisible"),
        ({"num_hidden_layers": 3}, "m: 9 tensors missing: model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "m: 9 tensors not known to the architecture: model.layers.1."),
        (
            {"intermediate_size": 97},
            "m: model.layers.0.mlp.gate_proj.weight is [96, 64], the architecture asks for [97,",
        ),
        ({"tie_word_embeddings": True}, "m: says it is tied, but has an lm_head.weight of its own"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(
    tmp_path: Path, checkpoint: Path, config: dict[str, Any], message: str
) -> None:
    _changed(tmp_path, checkpoint, config)
    assert _refusal(tmp_path, "m").startswith(message)


def test_the_base_of_the_rotation_is_found_where_transformers_finds_it(
    tmp_path: Path, checkpoint: Path
) -> None:
    both = {"rope_theta": 3.0, "rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}
    _changed(tmp_path, checkpoint, both)
    theirs = pytest.importorskip("transformers").AutoConfig.from_pretrained(tmp_path / "m")
    assert theirs.rope_parameters["rope_theta"] == 5.0
    assert open_weights(tmp_path, "m").architecture.rope_theta == 5.0
    said = json.loads((tmp_path / "m" / "config.json").read_text())
    del said["rope_parameters"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(said))
    assert open_weights(tmp_path, "m").architecture.rope_theta == 3.0


def test_files_that_are_no_checkpoint_are_one_line(tmp_path: Path, checkpoint: Path) -> None:
    assert _refusal(tmp_path, "nowhere").endswith("there is no such file or folder")
    assert _refusal(tmp_path, "../m").endswith("must lie inside the project")
    tensors = _changed(tmp_path, checkpoint)
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert _refusal(tmp_path, "m").startswith("model.safetensors: truncated, or no safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, file)
    assert _refusal(tmp_path, "m").startswith("m: unsupported quantisation I8")
    file.unlink()
    assert "has neither model.safetensors nor" in _refusal(tmp_path, "m")
    for index in ("{}", '{"weight_map": ["model.norm.weight"]}'):
        (tmp_path / "m" / "model.safetensors.index.json").write_text(index)
        assert _refusal(tmp_path, "m") == "m: model.safetensors.index.json has no weight_map"
    (tmp_path / "m.gguf").mkdir()
    assert _refusal(tmp_path, "m.gguf") == "m.gguf: has no config.json"
    os.mkfifo(tmp_path / "pipe.gguf")
    assert _refusal(tmp_path, "pipe.gguf").endswith("is neither a file nor a folder")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert _refusal(tmp_path, "link").endswith("link is a symbolic link")


def test_gguf_files_that_do_not_serve_are_one_line(tmp_path: Path, checkpoint: Path) -> None:
    gguf_of(tmp_path / "m.gguf", checkpoint, "llama", "F32")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[: len(whole) // 2])
    assert _refusal(tmp_path, "m.gguf").startswith("m.gguf: truncated, or no GGUF file")
    (tmp_path / "m.gguf").write_bytes(b"no such thing")
    assert _refusal(tmp_path, "m.gguf").startswith("m.gguf: truncated, or no GGUF file")
    gguf_of(tmp_path / "q.gguf", checkpoint, "llama", "Q4_0")
    assert _refusal(tmp_path, "q.gguf").startswith("q.gguf: unsupported quantisation Q4_0 of ")
    gguf_of(tmp_path / "l.gguf", checkpoint, "llama", "F32", block_count=3)
    assert _refusal(tmp_path, "l.gguf").startswith("l.gguf: 9 tensors missing: model.layers.2.")
    gguf_of(tmp_path / "h.gguf", checkpoint, "llama", "F32", head_count=0)
    assert _refusal(tmp_path, "h.gguf").startswith("h.gguf: attention.head_count: Input should be")


def test_a_gguf_file_that_rotates_otherwise_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    """Its logits would be wrong, and nothing in its tensors' shapes tells so."""
    gguf_of(tmp_path / "all.gguf", checkpoint, "llama", "F32", rope_dimension_count=16)
    assert open_weights(tmp_path, "all.gguf").architecture.head_dim == 16
    gguf_of(tmp_path / "part.gguf", checkpoint, "llama", "F32", rope_dimension_count=8)
    assert _refusal(tmp_path, "part.gguf") == (
        "part.gguf: rotates 8 of each head's 16 channels; only all of them are supported"
    )


def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path: Path, checkpoint: Path) -> None:
    """Caches name a file by its hash; people write .GGUF."""
    gguf_of(tmp_path / "m.gguf", checkpoint, "llama", "F16")
    for name in ("1b2d0c", "m.GGUF"):
        (tmp_path / name).write_bytes((tmp_path / "m.gguf").read_bytes())
        assert open_weights(tmp_path, name).types == {"F16", "F32"}


def test_a_prompt_and_a_tokenizer_that_do_not_fit_are_one_line(
    tmp_path: Path, checkpoint: Path
) -> None:
    shape = open_weights(checkpoint.parent, "m").architecture
    refuse_unfit(fed("x" * 64, None, None, tmp_path), shape)
    with pytest.raises(RunRefusedError, match="the prompt has 65 tokens, the model's context is 6"):
        refuse_unfit(fed("x" * 65, None, None, tmp_path), shape)
    small = shape.model_copy(update={"vocab": 255})
    with pytest.raises(RunRefusedError, match=r"tokenizer bytes has ids up to 255, .* only 255"):
        refuse_unfit(fed("x", "bytes", None, tmp_path), small)
    decode = Decode(tokens=8, prefill=56)
    refuse_unfit(fed("x", None, None, tmp_path), shape, decode)
    with pytest.raises(RunRefusedError, match="the prompt has 57 tokens and 8 to generate, the mo"):
        refuse_unfit(fed("x", None, None, tmp_path), shape, Decode(tokens=8, prefill=57))
    gaps = Tokenizer(models.WordLevel({"a": 300}, unk_token="a"))  # noqa: S106 - a token, no secret
    gaps.save(str(tmp_path / "gaps.json"))
    with pytest.raises(RunRefusedError, match=r"gaps\.json has ids up to 300, .* only 300"):
        refuse_unfit(fed("a", "gaps.json", None, tmp_path), shape)
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(RunRefusedError, match=r"t\.json: no tokenizer"):
        fed("x", "t.json", None, tmp_path)
