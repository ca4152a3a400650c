"""Kinds of layers, one module each. Every module here is loaded, which registers the kinds that it defines."""

import pkgutil
from importlib import import_module

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
