"""Generation: a prefill and steps of one token, timed; on CUDA each is one captured graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_gates.model.attention import Cache
from pytest_gates.model.compilations import compilations
from pytest_gates.model.config import Decode, ForwardRun
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.writer import TelemetryWriter

_CACHE_MULTIPLE = 64
_WARM_UPS = 3


def decode(
    path: ForwardPath,
    declared: ForwardRun,
    prompt: Sequence[int],
    writer: TelemetryWriter,
    seams: Seams = CLEAN,
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
    generator = Generator(path, asked, len(prompt), declared.seed, seams.before_step)
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
    """A path with a KV cache for one prompt length and its continuation.

    Everything a token needs from the one before stays on the device: the token, its position and
    the list of all tokens. The host launches a token's work and waits at the first and last alone.
    """

    def __init__(
        self,
        path: ForwardPath,
        asked: Decode,
        prompt: int,
        seed: int,
        before_launch: Callable[[int], None] = CLEAN.before_step,
    ) -> None:
        self._path, self._asked, self._before_launch = path, asked, before_launch
        device, length = path.device, prompt + asked.tokens
        length = -(-length // _CACHE_MULTIPLE) * _CACHE_MULTIPLE
        self._cache = Cache(path.model.architecture, length=length, device=device, dtype=path.dtype)
        self._random = torch.Generator(device).manual_seed(seed)
        self._prompt = torch.zeros(1, prompt, dtype=torch.int64, device=device)
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self._position = torch.full((1,), prompt, dtype=torch.int64, device=device)
        self._count = torch.zeros(1, dtype=torch.int64, device=device)
        self._generated = torch.zeros(asked.tokens, dtype=torch.int64, device=device)
        self.graphed = asked.graph == "auto" and device.type == "cuda"
        """Whether prefill and step are captured."""
        self._prefill, self._step = self._feed_prompt, self._feed_token
        if self.graphed:
            self._prefill = self._captured(self._feed_prompt)
            if asked.tokens > 1:
                self._step = self._captured(self._feed_token)

    @torch.no_grad()
    def generate(self, prompt: Sequence[int]) -> Generated:
        """Feed the prompt, then a token at a time; sampling goes on where it stopped."""
        given = torch.tensor([prompt], dtype=torch.int64)
        started = time.perf_counter()
        self._before_launch(0)
        self._prompt.copy_(given)
        self._prefill()
        self._token.item()  # waits for the device: the first token is known
        first = time.perf_counter()
        for index in range(1, self._asked.tokens):
            self._before_launch(index)
            self._step()
        found = self._generated.tolist()
        rest = (time.perf_counter() - first) * 1000 / max(len(found) - 1, 1)
        return Generated(found, (first - started) * 1000, rest if len(found) > 1 else None)

    def _feed_prompt(self) -> None:
        """The whole prompt through the path; its last logits give the first token."""
        path = self._path
        with path.context():
            hidden = path.model.model(self._prompt, cache=self._cache)
            logits = path.model.lm_head(hidden[:, -1:])
        self._position.fill_(self._prompt.shape[1])
        self._count.zero_()
        self._keep(self._choose(logits))

    def _feed_token(self) -> None:
        """The newest token through the path, to the next one."""
        with self._path.context():
            logits = self._path.model(self._token, positions=self._position, cache=self._cache)
        self._position.add_(1)
        self._keep(self._choose(logits))

    def _keep(self, token: Tensor) -> None:
        self._token.copy_(token)
        self._generated.index_copy_(0, self._count, token[0])
        self._count.add_(1)

    @torch.no_grad()
    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """A replay of `work` as one CUDA graph, its kernels warmed up on a stream of their own.

        What `work` moves on is set back before each warm-up, so that none leaves the cache.
        """
        with torch.cuda.device(self._path.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._rewind()
                    work()
                self._rewind()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._random)
            with torch.cuda.graph(graph):
                work()
        return graph.replay

    def _rewind(self) -> None:
        self._position.fill_(self._prompt.shape[1])
        self._count.zero_()

    def _choose(self, logits: Tensor) -> Tensor:
        """The next token, 1 1, from logits 1 1 V; never waits, so that a graph can hold it."""
        asked = self._asked
        last = logits[:, -1].float()
        if asked.temperature == 0:
            return last.argmax(-1, keepdim=True)
        if asked.top_k:
            least = last.topk(min(asked.top_k, last.shape[-1])).values[:, -1:]
            last = last.masked_fill(last < least, -torch.inf)
        share = (last / asked.temperature).softmax(-1)
        # The likeliest of independent exponential clocks (Gumbel's trick); torch.multinomial
        # does the same, but looks at its input from the host first.
        clock = torch.empty_like(share).exponential_(generator=self._random)
        return (share / clock).argmax(-1, keepdim=True)
