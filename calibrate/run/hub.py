"""The Hugging Face hub: whether it answers, found out once and quickly, and what is here without it."""

from __future__ import annotations

import os
from functools import lru_cache

from llm_perf.errors import EnvironmentFailure

TIMEOUT_S = 5.0
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@lru_cache
def answers() -> bool:
    """Whether the hub answers. Where it does not, its library is told to stay offline: else it tries for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # noqa: BLE001 - whatever a network, a proxy or a certificate raises
        constants.HF_HUB_OFFLINE = True
        return False
    return True


def check_weights(repository: str) -> None:
    """Make sure that a repository's weights can be had: from the hub, or from its cache on this machine.

    Raises:
        EnvironmentFailure: neither has them.
    """
    from huggingface_hub import try_to_load_from_cache

    if answers() or any(isinstance(try_to_load_from_cache(repository, name), str) for name in _WEIGHTS):
        return
    raise EnvironmentFailure(
        f"no weights of {repository}: the hub does not answer and its cache does not hold them; pass --dummy for "
        "random ones"
    )
