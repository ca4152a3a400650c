"""Where calibrate's modules stood before its rooms: the old names import the new modules, with a warning."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

MOVED: Final = {
    "calibrate.published": "calibrate.evidence.published",
    "calibrate.nearest": "calibrate.evidence.nearest",
    "calibrate.traces": "calibrate.evidence.traces",
    "calibrate.microbench": "calibrate.probe",
    "calibrate.run_train": "calibrate.run.train",
    "calibrate.run_llama_cpp": "calibrate.run.llama_cpp",
    "calibrate.compare": "calibrate.fit.compare",
    "calibrate.refit": "calibrate.fit.refit",
    "calibrate.transfer": "calibrate.validate.transfer",
    "calibrate.validation": "calibrate.validate",
}
"""Old name to new; what stands inside a package moved with it, unless it is named itself."""


def new_name(name: str) -> str | None:
    """Where a module stands now; None for what never moved."""
    if not name.startswith("calibrate."):
        return None
    for old in sorted(MOVED, key=len, reverse=True):
        if name == old or name.startswith(f"{old}."):
            return MOVED[old] + name[len(old) :]
    return None


class OldNames:
    """Asked first: a package under its old name would else find its modules a second time, as others of that name.

    Finder and loader without the classes of `importlib.abc`, which would load what reads resources at every start.
    """

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system passes it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The module of today under its old name; None for names that never were."""
        found = new_name(name)
        if found is None or importlib.util.find_spec(found) is None:
            return None
        warnings.warn(f"{name} is {found} now", DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, cast("Loader", self), origin=found)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of today itself: what is patched or isinstance-tested there is one thing."""
        module = importlib.import_module(str(spec.origin))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run under its own name, which the import system has just overwritten."""
        if module.__spec__ is not None and isinstance(module.__spec__.loader_state, ModuleSpec):
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let `import` ask for old names, once per process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
