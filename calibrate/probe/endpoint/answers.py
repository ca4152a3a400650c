"""Whether what a server says of its answers can be: its model, and its counts of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from calibrate.probe.endpoint.facts import plain_name
from calibrate.probe.endpoint.prompts import TokenLaw
from calibrate.probe.endpoint.request import Sample

_NEAR, _NEAR_TOKENS = 0.1, 16
"""How far the count of a prompt may be from the line through the first two: random letters make no exact number."""

_PIECE_TOKENS = 4.0
"""Tokens of one piece of the stream from which on their times are not known."""


def objection(samples: Sequence[Sample], model: str, law: TokenLaw | None) -> str | None:
    """Why answers cannot be used, in one sentence; None where they can.

    Args:
        samples: Whole answers.
        model: The server's name of the model that was asked for.
        law: Tokens of a text, where that is known.
    """
    for sample in samples:
        found = _of_one(sample, model, law)
        if found is not None:
            return found
    return None


def _of_one(sample: Sample, model: str, law: TokenLaw | None) -> str | None:
    if sample.model is not None and plain_name(sample.model) != plain_name(model):
        return f"the server answers as another model: {sample.model!r} instead of {model!r}"
    if sample.output_tokens is None or sample.prompt_tokens is None:
        return "the server streams without usage (stream_options.include_usage), so that its tokens cannot be counted"
    said, came, asked = sample.output_tokens, len(sample.token_s), sample.asked_output
    if said > asked:
        return f"the server says that it generated {said} tokens, and {asked} were asked for: its counts cannot be used"
    if came > said:
        return f"the server says that it generated {said} tokens, and sent {came}: its counts cannot be used"
    if said > 1 and said / came > _PIECE_TOKENS:
        return f"the server sent {said} tokens in {came} pieces: when each came cannot be seen"
    if law is not None and sample.asked_prompt:
        off = abs(sample.prompt_tokens - sample.asked_prompt)
        if off > max(_NEAR * sample.asked_prompt, _NEAR_TOKENS):
            return (
                f"the server counts {sample.prompt_tokens} tokens in a prompt of about {sample.asked_prompt}: its counts "
                "cannot be used"
            )
    return None
