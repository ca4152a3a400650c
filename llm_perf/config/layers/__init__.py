"""Kinds of layers, one module each. Those that few models have are loaded when a model names one."""

import pkgutil
from importlib import import_module


def load_all() -> None:
    """Load every module here, which registers the kinds that it defines."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
