"""Models from files: our own schema, seed 002's flat JSON, and Hugging Face's ``config.json``.

``reader`` checks fields, ``families`` is one row per architecture, ``convert`` builds a model by its row, ``hub`` asks the
hub. The defaults of absent keys are those of the config classes in transformers 5.17.
"""

from llm_perf.config.huggingface.convert import from_hf_config
from llm_perf.config.huggingface.hub import load_from_hub
from llm_perf.config.huggingface.model_files import load_model_file

__all__ = ["from_hf_config", "load_from_hub", "load_model_file"]
