"""Profiles held to the systems that they set constants of, and to the specs that they describe as a whole."""

from __future__ import annotations

from llm_perf.config.profiles import NO_FIT, NO_PROFILE, Profile, load_profile
from llm_perf.errors import SpecError
from llm_perf.systems.constants import ConstantsFile, load_constants, load_release, overridden
from llm_perf.systems.families import folder_of
from llm_perf.systems.registry import system_names


def checked_profile(name: str | None) -> Profile:
    """A profile by name or path, of which every value could be applied; None changes nothing, "none" takes away fits.

    Raises:
        SpecError: unknown name, malformed file, a system or a constant that does not exist, or a device that cannot be.
    """
    profile = load_profile(name)
    if profile is NO_PROFILE or profile is NO_FIT:
        return profile
    try:
        for system, constants in profile.system_constants.items():
            overridden(_constants_of(system), tuple(constants.items()))
        if (own := profile.gpu.get("name")) is not None:
            profile.own_gpu(str(own))
        profile.own_host()
    except SpecError as error:
        said = str(error).removeprefix(f"profile {profile.name}: ")
        raise SpecError(f"profile {name}: {said}") from None
    return profile


def _constants_of(system: str) -> ConstantsFile:
    # Imported late: a prediction of inference does without the frameworks of training.
    from llm_perf.systems.training.framework import FRAMEWORKS, load_framework

    family, _, release = system.partition("@")
    if family in system_names():
        if release and release not in folder_of(family).all_releases:
            known = ", ".join(folder_of(family).all_releases)
            raise SpecError(f"system_constants: {family} has no file of version {release!r}; it has {known}")
        return load_constants(family) if not release else load_release(family, release)
    if system in FRAMEWORKS:
        return load_framework(system)
    raise SpecError(f"system_constants: there is no system {system!r}; there are {', '.join(system_names())}")
