"""How the model generates: greedily, and exactly as many tokens as were asked for."""

from __future__ import annotations

from typing import Any


def generate_arguments(model: Any, gen_len: int, cache: Any = None) -> dict[str, Any]:
    """Greedy, and exactly ``gen_len`` tokens: a stop token would end a generation early and spoil its time."""
    from transformers import GenerationConfig

    given = model.generation_config
    pad = given.pad_token_id if given.pad_token_id is not None else 1
    config = GenerationConfig(max_new_tokens=gen_len, do_sample=False, use_cache=True, pad_token_id=pad)
    arguments: dict[str, Any] = {"generation_config": config}
    for name in ("eos_token_id", "bos_token_id"):
        setattr(given, name, None)
    return arguments if cache is None else arguments | {"past_key_values": cache}
