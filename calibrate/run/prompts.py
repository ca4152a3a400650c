"""What the model is asked: the original's prompt where there is a tokenizer, random token ids where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROMPT = "Paris is the capital city of"

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "spiece.model",
)


def get_tokenizer(weights: Any) -> Any:
    """The tokenizer beside real weights, or None where there is none."""
    from transformers import AutoTokenizer

    folder = Path(str(weights))
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None  # transformers would make an empty one up
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(weights), padding_side="left")
    except Exception:  # noqa: BLE001 - whatever a missing or foreign tokenizer raises: token ids do as well
        return None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode_prompts(
    tokenizer: Any, batch_size: int, prompt_len: int, vocab_size: int, seed: int, device: Any, first: int = 0
) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` of ``batch_size`` prompts of exactly ``prompt_len`` tokens.

    Args:
        tokenizer: None for random token ids, which differ from sequence to sequence.
        batch_size: Sequences of this rank.
        prompt_len: Tokens; a text is padded, or cut, to them.
        vocab_size: Token ids are below it.
        seed: Of random ids.
        device: The torch device.
        first: Number of sequences that the ranks before this one have.
    """
    import torch

    if tokenizer is not None:
        encoded = tokenizer(
            [PROMPT] * batch_size,
            return_tensors="pt",
            padding="max_length",
            max_length=prompt_len,
            truncation=True,
        )
        return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}
    generator = torch.Generator().manual_seed(seed + 1)
    # The lowest ids are special tokens in every vocabulary that is large enough to have some.
    lowest = min(10, vocab_size // 2)
    ids = torch.randint(lowest, vocab_size, (first + batch_size, prompt_len), generator=generator)[first:].to(
        device
    )
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
