"""Models by names that fine-tunes and repackaged copies go by: words that change no shape are taken away, and said.

Asked for last, where neither a spec, an alias, a tag nor the hub knows a name: what is found here is another's shape, so
whoever prints an answer says which (`meant_model`).
"""

from __future__ import annotations

import re

from llm_perf.config.bundled import known_names, load_spec, written_aliases
from llm_perf.config.formats import format_of_repository, nearest_mixture
from llm_perf.config.model import ModelConfig
from llm_perf.config.names import normalise
from llm_perf.errors import SpecError

__all__ = ["base_by_words", "file_name_alone", "meant_model", "model_of_known_words"]

_GGUF = re.compile(r"(?:[.-]i1)?(?:-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)
_NO_SHAPE = re.compile(r"instruct|chat|it|hf|base|pt|text|\d{4}|(?:19|20)?\d{6}")
"""Words that say how a model was trained, packed or when: instruct, it, 2507."""
_ADDED = re.compile(r"v\d+(?:\.\d+)*|hf|instruct|chat|it|base|\d{4}|a\d+(?:\.\d+)?b")
"""Words that people leave out behind a name: its version, its date, a mixture's active parameters."""
_SIZE = re.compile(r"(?:\d+x)?\d+(?:\.\d+)?[bm]")


def file_name_alone(name: str) -> str | None:
    """What a GGUF file's name says before its ending, where it is no path: ``gemma-3-12b-it-Q8_0.gguf``; else None."""
    plain = name.strip()
    if not _GGUF.search(plain) or plain.count("/") > 1 or plain.startswith((".", "/", "~")) or "\\" in plain:
        return None
    return _DOT.sub("-", _GGUF.sub("", plain))


_DOT = re.compile(r"\.(?=(?:ud-)?(?:iq|q|f|bf|mxfp)\d)", re.IGNORECASE)
"""Before a format where others write a hyphen: mistral-7b-instruct-v0.2.Q4_K_M.gguf."""


def model_of_known_words(name: str) -> ModelConfig | None:
    """The one known model that a name means without words that change no shape, or with those that people leave out.

    Of another owner's repository only where its name is the model's own: who adds words may mean a model of its own.
    """
    owner, _, plain = name.strip().rpartition("/")
    for wanted in _shortened(normalise(plain)):
        found = _named(wanted) or _begun(wanted)
        if found is not None:
            return found if owner.lower() in ("", found.name.partition("/")[0].lower()) else None
    return None


def _shortened(plain: str) -> list[str]:
    """A name, and the name without its last words that change no shape, one more each time."""
    words, found = plain.split("-"), [plain]
    while len(words) > 1 and _NO_SHAPE.fullmatch(words[-1]):
        words = words[:-1]
        found.append("-".join(words))
    rest = [word for word in words if not _NO_SHAPE.fullmatch(word)]
    return found if rest == words or len(rest) < 2 else [*found, "-".join(rest)]


def _named(wanted: str) -> ModelConfig | None:
    try:
        return load_spec("model", ModelConfig, wanted)
    except SpecError:
        return None


def _begun(wanted: str) -> ModelConfig | None:
    """The one model whose names go on after this one by words that people leave out; None where several do."""
    found = {
        spec
        for form, spec in _forms()
        if form.startswith(f"{wanted}-") and all(map(_ADDED.fullmatch, form[len(wanted) + 1 :].split("-")))
    }
    return _named(found.pop()) if len(found) == 1 and any(map(_SIZE.fullmatch, wanted.split("-"))) else None


def _forms() -> list[tuple[str, str]]:
    """Every name without its organisation, with the spec that it means."""
    own = [(normalise(name.partition("_")[2] or name), name) for name in known_names("model")]
    return own + [
        (normalise(alias.rpartition("/")[2]), spec) for alias, spec in written_aliases("model").items()
    ]


def base_by_words(name: str) -> str | None:
    """The published name of the one model of a known size whose words are all in a name; None where none or several are.

    ``Hermes-2-Pro-Llama-3-8B`` has those of Llama-3-8B, ``dolphin-2.9-qwen2-7b`` those of Qwen2-7B.
    """
    typed = _kept_words(_without_format(name.rpartition("/")[2]))
    best: dict[str, int] = {}
    for form, spec in _forms():
        words = _kept_words(form)
        if words and any(map(_SIZE.fullmatch, words)) and len(words) > 1 and _in_order(words, typed):
            best[spec] = max(best.get(spec, 0), len(words))
    most = max(best.values(), default=0)
    found = [spec for spec, count in best.items() if count == most]
    return found[0].replace("_", "/", 1) if len(found) == 1 else None


def _without_format(plain: str) -> str:
    stored = format_of_repository(plain)
    return plain if stored is None else plain[: -len(stored[0])]


def _kept_words(name: str) -> list[str]:
    """Words that say which model: ``llama3`` is ``llama``, ``3``."""
    plain = _NUMBER_INSIDE.sub("-", normalise(name))
    return [word for word in plain.split("-") if word and not _NO_SHAPE.fullmatch(word)]


_NUMBER_INSIDE = re.compile(r"(?<=[a-z])(?=\d)(?<!-[av])(?<!^v)|(?<=\d)(?=[a-z]{3})")
_OTHER_SHAPE = frozenset(
    ("vl", "omni", "audio", "moe", "next", "vision", "mamba", "coder", "mini", "draft", "eagle", "eagle3")
)
"""Words that make another shape of a model's name."""


def _in_order(words: list[str], typed: list[str]) -> bool:
    """Whether all words stand in a name in their order, its size is theirs, and no other word makes another shape of it.

    A number between them is of another generation: ``qwen25-7b`` and ``qwen-2-5-7b`` are no Qwen-7B.
    """
    sizes = {word for word in typed if _SIZE.fullmatch(word)}
    places: list[int] = []
    for word in words:
        if word not in (rest := typed[places[-1] + 1 if places else 0 :]):
            return False
        places.append(len(typed) - len(rest) + rest.index(word))
    if _OTHER_SHAPE & (set(typed) - set(words)):
        return False
    if any(_NUMBER.fullmatch(typed[at]) for at in range(places[0], places[-1]) if at not in places):
        return False
    return sizes == {word for word in words if _SIZE.fullmatch(word)}


_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def meant_model(name: str, found: ModelConfig) -> str | None:
    """Which model, in which format, stands for a name that is not its own; None where the name says it, or is a file.

    ``found`` is what the name was resolved to: a name that ends in a format's is kept, and the model is that before it.
    """
    plain = file_name_alone(name) or name.strip()
    stored = format_of_repository(plain)
    base = found
    if found.name == name.strip() and stored is not None:
        from llm_perf.config.named_models import get_model_config_by_name

        base = get_model_config_by_name(plain[: -len(stored[0])].rpartition("/")[2])
    if normalise(name) in (normalise(base.name), normalise(base.name.rpartition("/")[2])):
        return None
    if stored is None or normalise(base.name).endswith(normalise(stored[0])):
        return base.name
    mixture = stored[0].lstrip("-")
    nearest = "" if nearest_mixture(mixture) is None else f", the nearest known to {mixture.upper()}"
    return f"{base.name} in {stored[1]}{nearest}"
