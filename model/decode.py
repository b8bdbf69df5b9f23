"""Generation: a prefill and steps of one token, timed; on CUDA the step is one captured graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_gates.model.attention import Cache
from pytest_gates.model.compiled import compilations
from pytest_gates.model.config import Decode, ForwardRun
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.writer import TelemetryWriter

_CACHE_MULTIPLE = 64


def decode(
    path: ForwardPath, declared: ForwardRun, prompt: Sequence[int], writer: TelemetryWriter
) -> None:
    """Generate as often as declared; a step a repetition, with its times.

    Metrics: `ttft_ms`, `decode_ms`, `decode_tokens_per_sec`. Facts: `generated` (the first tokens
    of the last repetition), `generated_tokens`, `decode_graph` (whether a graph was captured).
    Event: `compiled`, of a repetition in which torch.compile made a graph: its times are no
    measure of the others'.
    """
    asked = declared.decode
    assert asked is not None
    if asked.prefill:
        prompt = [prompt[i % len(prompt)] for i in range(asked.prefill)]
    generator = Generator(path, asked, len(prompt), declared.seed)
    for repetition in range(asked.repeat):
        before = compilations()
        done = generator.generate(prompt)
        if compilations() > before:
            writer.event("compiled", repetition, graphs=compilations() - before)
        writer.step(
            step=repetition,
            ttft_ms=done.ttft_ms,
            decode_ms=done.decode_ms,
            decode_tokens_per_sec=None if done.decode_ms is None else 1000 / done.decode_ms,
        )
    writer.fact("generated", done.tokens[:64])
    writer.fact("generated_tokens", len(done.tokens))
    writer.fact("decode_graph", generator.graphed)


@dataclass(frozen=True)
class Generated:
    """One continuation of the prompt."""

    tokens: list[int]
    ttft_ms: float
    """From the prompt on the host to the first token on the host."""
    decode_ms: float | None
    """Mean time of a token after the first; None if there is none."""


class Generator:
    """A path with a KV cache for one prompt length and its continuation."""

    def __init__(self, path: ForwardPath, asked: Decode, prompt: int, seed: int) -> None:
        self._path, self._asked = path, asked
        length = -(-(prompt + asked.tokens) // _CACHE_MULTIPLE) * _CACHE_MULTIPLE
        self._cache = Cache(
            path.model.architecture, length=length, device=path.device, dtype=path.dtype
        )
        self._random = torch.Generator(path.device).manual_seed(seed)
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=path.device)
        self._position = torch.zeros(1, dtype=torch.int64, device=path.device)
        self._logits: Tensor | None = None
        self._replay: Callable[[], None] | None = None
        self.graphed = asked.graph == "auto" and path.device.type == "cuda"
        """Whether the step of one token is captured."""

    @torch.no_grad()
    def generate(self, prompt: Sequence[int]) -> Generated:
        """Feed the prompt, then a token at a time; sampling goes on where it stopped."""
        path = self._path
        started = time.perf_counter()
        fed = torch.tensor([prompt], dtype=torch.int64, device=path.device)
        with path.context():
            hidden = path.model.model(fed, cache=self._cache)
            logits = path.model.lm_head(hidden[:, -1:])
        self._token.copy_(self._choose(logits))
        tokens = [self._token[0].clone()]
        tokens[0].item()  # waits for the device: the first token is known
        first = time.perf_counter()
        self._position.fill_(len(prompt))
        for _ in range(self._asked.tokens - 1):
            self._step()
            assert self._logits is not None
            self._token.copy_(self._choose(self._logits))
            tokens.append(self._token[0].clone())
            self._position.add_(1)
        found = torch.cat(tokens).tolist()
        rest = (time.perf_counter() - first) * 1000 / max(len(found) - 1, 1)
        return Generated(found, (first - started) * 1000, rest if len(found) > 1 else None)

    def _step(self) -> None:
        """One token through the path; its logits are in `_logits` afterwards."""
        if self._replay is not None:
            self._replay()
        elif self.graphed:
            self._capture()
        else:
            self._forward()

    def _forward(self) -> None:
        with self._path.context():
            self._logits = self._path.model(
                self._token, positions=self._position, cache=self._cache
            )

    def _capture(self) -> None:
        """Warm the kernels up on a stream of their own, then record one step.

        A step writes its keys at its own position and can be repeated without harm.
        """
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._forward()
        self._replay = graph.replay
        graph.replay()

    def _choose(self, logits: Tensor) -> Tensor:
        """The next token, 1 1, from logits 1 1 V."""
        asked = self._asked
        last = logits[:, -1].float()
        if asked.temperature == 0:
            return last.argmax(-1, keepdim=True)
        if asked.top_k:
            least = last.topk(min(asked.top_k, last.shape[-1])).values[:, -1:]
            last = last.masked_fill(last < least, -torch.inf)
        share = (last / asked.temperature).softmax(-1)
        return torch.multinomial(share, 1, generator=self._random)
