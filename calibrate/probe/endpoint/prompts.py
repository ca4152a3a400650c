"""Prompts of random letters, so that no prefix cache finds anything, and how many tokens the server makes of them."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass


class Prompts:
    """Random words of four to seven letters, drawn anew for every prompt."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def of_letters(self, count: int) -> str:
        """A prompt of so many characters."""
        words: list[str] = []
        left = count
        while left > 0:
            size = min(self._random.randint(4, 7), left)
            words.append("".join(self._random.choices(string.ascii_lowercase, k=size)))
            left -= size + 1
        return " ".join(words)[:count].ljust(count, "a")


@dataclass(frozen=True)
class TokenLaw:
    """Tokens of a prompt: ``fixed`` that the server adds, and ``per_letter`` of each character."""

    fixed: float
    per_letter: float

    @classmethod
    def of(cls, short: tuple[int, int], long: tuple[int, int]) -> TokenLaw | None:
        """The line through two (letters, tokens that the server counted); None where it cannot be one."""
        per_letter = (long[1] - short[1]) / (long[0] - short[0])
        # A token of random letters is one to six of them.
        if not 0.1 <= per_letter <= 2.0:
            return None
        return cls(max(short[1] - per_letter * short[0], 0.0), per_letter)

    def letters(self, tokens: int) -> int:
        """Characters of a prompt of about so many tokens."""
        return max(round((tokens - self.fixed) / self.per_letter), 1)
