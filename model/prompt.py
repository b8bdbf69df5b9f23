"""The tokens a prompt becomes, and what tells that two sides were fed the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.config import BYTES_VOCAB, Decode
from pytest_gates.model.weights import inside, refused


@dataclass(frozen=True)
class Fed:
    """A tokenised prompt."""

    tokens: tuple[int, ...]
    tokenizer: str
    """`bytes` or the file's name."""
    vocab: int
    """One more than the highest id that the tokenizer can produce."""
    sha256: str | None
    """Of the tokenizer's file."""


@dataclass(frozen=True)
class Input:
    """What a path is fed; sides are compared only where it is the same."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Sequence[int]) -> Input:
        """Tokens at the positions from 0 on."""
        return cls(tuple(tokens), tuple(range(len(tokens))))


def fed(prompt: str, tokenizer: str | None, beside: Path | None, root: Path) -> Fed:
    """Tokenise a prompt, special tokens included where the tokenizer adds them.

    Args:
        prompt: the text.
        tokenizer: what was declared: `bytes`, a file inside the project, or None.
        beside: the tokenizer next to the weights, taken where nothing was declared.
        root: the project's root.

    Raises:
        RunRefusedError: CONFIG_REFUSED, the file is none or gives no token.
    """
    if tokenizer == "bytes" or (tokenizer is None and beside is None):
        return Fed(tuple(prompt.encode()), "bytes", BYTES_VOCAB, None)
    file = beside if tokenizer is None else inside(root, tokenizer, "tokenizer")
    assert file is not None
    from tokenizers import Tokenizer  # noqa: PLC0415 - half a second that bytes need not pay

    content = file.read_bytes()
    try:
        read = Tokenizer.from_str(content.decode())
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise refused(f"{file.name}: no tokenizer: {error}") from None
    tokens = tuple(read.encode(prompt).ids)
    if not tokens:
        raise refused(f"{file.name}: the prompt has no token")
    return Fed(
        tokens,
        file.name,
        max(read.get_vocab(with_added_tokens=True).values()) + 1,
        hashlib.sha256(content).hexdigest(),
    )


def refuse_unfit(given: Fed, architecture: Architecture, decode: Decode | None = None) -> None:
    """Refuse a tokenizer of another vocabulary, and a prompt longer than the context.

    What is generated counts, and so does a prompt that is repeated to a length for it.

    Raises:
        RunRefusedError: CONFIG_REFUSED, with both numbers.
    """
    if given.vocab > architecture.vocab:
        raise refused(
            f"tokenizer {given.tokenizer} has ids up to {given.vocab - 1}, "
            f"the model's vocabulary only {architecture.vocab}"
        )
    prompt, generated = len(given.tokens), 0
    if decode is not None:
        prompt, generated = max(prompt, decode.prefill), decode.tokens
    if architecture.context is not None and prompt + generated > architecture.context:
        extra = f" and {generated} to generate" if generated else ""
        raise refused(
            f"the prompt has {prompt} tokens{extra}, the model's context is {architecture.context}"
        )
