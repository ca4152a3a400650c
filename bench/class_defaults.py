"""Write llm_perf/config/huggingface/class_defaults.json: defaults of config classes, of the keys that their rows read.

Needs transformers. A key whose value follows from others in the class (a head count that is null, a list per layer) has no
entry: the row says what it follows from. Run it after adding a row with ``defaults=None``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llm_perf.config.huggingface import class_defaults
from llm_perf.config.huggingface.convert import _row_and_reader
from llm_perf.config.huggingface.families import FAMILIES
from llm_perf.config.huggingface.unread import SHAPELESS, _left
from llm_perf.config.huggingface.wrappers import WRAPPERS
from llm_perf.errors import SpecError

FILE = Path(class_defaults.__file__).with_name("class_defaults.json")
ALWAYS = {"tie_word_embeddings"}


def defaults_of(model_type: str) -> dict[str, Any]:
    """The class's defaults of the keys that the row of a type reads."""
    cls = CONFIG_MAPPING[model_type]
    fields = json.loads(cls().to_json_string(use_diff=False))
    # With both sides of a model that may have an encoder, so that its keys are read as well.
    both = {"architectures": ["ForConditionalGeneration"]} if FAMILIES[model_type].encoder else {}
    row, reader = _row_and_reader(model_type, {**fields, **both, "model_type": model_type})
    try:
        row.build(reader)
    except SpecError as error:
        print(f"{model_type}: {error}")
    found = {}
    for key in sorted((reader.read | ALWAYS) & fields.keys()):
        value = getattr(cls, key, None)
        if isinstance(value, (bool, int, str)) and value == fields[key]:
            found[key] = value
    return found


def unread_of(model_type: str) -> dict[str, Any]:
    """What the row of a type leaves of the class's default config and may be about shapes."""
    fields = json.loads(CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    row, reader = _row_and_reader(model_type, {**fields, "model_type": model_type})
    try:
        row.build(reader)
    except SpecError:
        return {}
    left = _left(reader)
    return {name: left[name] for name in sorted(left) if not SHAPELESS.fullmatch(name)}


def main() -> None:
    """Write the file."""
    types = sorted(name for name, row in FAMILIES.items() if row.defaults is None and name in CONFIG_MAPPING)
    source = f"config classes of transformers {transformers.__version__}"
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(defaults_of(name))}" for name in types)
    rest = {
        name: unread_of(name) for name in sorted(FAMILIES.keys() | WRAPPERS.keys()) if name in CONFIG_MAPPING
    }
    unread = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in rest.items() if found)
    FILE.write_text(f'{{"source": "{source}",\n"models": {{\n{lines}\n}},\n"unread": {{\n{unread}\n}}}}\n')


if __name__ == "__main__":
    main()
