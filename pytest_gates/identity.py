"""Answers remembered by the identity of what was asked about.

A run, a record or a window's steps are asked about for thousands of gates. To find one by its value
means to hash and compare all of it, every time; that it is the very same object is seen at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def remembered(
    kept: int,
) -> Callable[[Callable[[Asked], Answer]], Callable[[Asked], Answer]]:
    """Make a pure function of one frozen object give its answer again; `kept` of them at most."""

    def of(answer: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
        answers: dict[int, tuple[Asked, Answer]] = {}

        def asked(about: Asked) -> Answer:
            known = answers.get(id(about))
            if known is None or known[0] is not about:
                if len(answers) >= kept:
                    answers.clear()
                known = answers[id(about)] = about, answer(about)  # kept, so its id stays its own
            return known[1]

        asked.__doc__ = answer.__doc__
        return asked

    return of
