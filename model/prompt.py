"""The tokens a prompt becomes, and what tells that two sides were fed the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.config import BYTES_VOCAB
from pytest_gates.model.weights import inside, refused


@dataclass(frozen=True)
class Fed:
    """A tokenised prompt."""

    tokens: tuple[int, ...]
    tokenizer: str
    """`bytes` or the file's name."""
    vocab: int
    """Ids that the tokenizer can produce."""
    sha256: str | None
    """Of the tokenizer's file."""


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
        read.get_vocab_size(with_added_tokens=True),
        hashlib.sha256(content).hexdigest(),
    )


def refuse_unfit(given: Fed, architecture: Architecture, generated: int = 0) -> None:
    """Refuse a tokenizer of another vocabulary, and a prompt longer than the context.

    Raises:
        RunRefusedError: CONFIG_REFUSED, with both numbers.
    """
    if given.vocab > architecture.vocab:
        raise refused(
            f"tokenizer {given.tokenizer} has {given.vocab} ids, "
            f"the model's vocabulary only {architecture.vocab}"
        )
    length = len(given.tokens) + generated
    if architecture.context is not None and length > architecture.context:
        extra = f" and {generated} to generate" if generated else ""
        raise refused(
            f"the prompt has {len(given.tokens)} tokens{extra}, "
            f"the model's context is {architecture.context}"
        )
