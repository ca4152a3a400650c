"""The old name of `llm_perf.llm_analysis`, whose modules are the same ones under either name."""

import sys
from importlib import import_module
from pkgutil import iter_modules

sys.modules[__name__] = import_module("llm_perf.llm_analysis")
for _module in iter_modules(sys.modules[__name__].__path__):
    sys.modules[f"{__name__}.{_module.name}"] = import_module(f"llm_perf.llm_analysis.{_module.name}")
