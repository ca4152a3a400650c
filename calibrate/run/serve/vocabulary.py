"""A vocabulary for models of random weights: every printable ASCII character is a token, the others are words of their own.

So any text is as many tokens as it has characters, whatever token a model of random weights picks has a text, and no two
random prompts begin alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHARACTERS = tuple(chr(code) for code in range(0x20, 0x7F))
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
_FIRST = (UNKNOWN, BEGIN, END, *CHARACTERS)


def words(size: int) -> list[str]:
    """The tokens of a vocabulary of so many."""
    return [*_FIRST, *(f"w{number:05d}" for number in range(size - len(_FIRST)))][:size]


def write_tokenizer(folder: Path, size: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as transformers reads them."""
    tokens = words(size)
    special = [
        {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for number, text in enumerate(_FIRST[:3])
    ]  # fmt: skip
    found: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False,
        },
        "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {text: number for number, text in enumerate(tokens)}, "unk_token": UNKNOWN},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(found), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN, "bos_token": BEGIN, "eos_token": END,
        "model_max_length": 1 << 20,
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def add_to_gguf(writer: Any, size: int) -> None:
    """The same vocabulary in a GGUF file, as one of byte pairs without merges."""
    import gguf

    tokens = [_as_byte_pairs(text) for text in words(size)]
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([control if number < 3 else normal for number in range(size)])
    writer.add_token_merges(["w 0"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def _as_byte_pairs(text: str) -> str:
    """A blank is a letter of its own in vocabularies of byte pairs."""
    return text.replace(" ", "\u0120")
