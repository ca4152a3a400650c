"""Weights that ZeRO-3 really brought to the device, counted where it fetches them.

A parameter that is released between two uses, as a token table that is the head as well, is fetched twice in a pass;
one of at most the persistence threshold is fetched once for all. Only counting shows that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Fetches:
    """Bytes that were fetched since the start.

    Attributes:
        own_bytes: This rank's shards, which come over its link to the host where weights are offloaded.
        others_bytes: What the other ranks' shards added.
    """

    def __init__(self) -> None:
        self.own_bytes = 0
        self.others_bytes = 0

    def count(self, params: list[Any]) -> None:
        """Add parameters that are being fetched."""
        own = sum(param.ds_tensor.ds_numel * param.element_size() for param in params)
        self.own_bytes += own
        self.others_bytes += max(0, sum(param.ds_numel * param.element_size() for param in params) - own)

    def watch(self, model: Any) -> Fetches:
        """Count from now on what is fetched of a model under ZeRO-3; of any other model nothing is."""
        for param in model.parameters():
            fetch = getattr(param, "all_gather_coalesced", None)
            if fetch is not None:
                param.all_gather_coalesced = self._counting(fetch)
        return self

    def _counting(self, fetch: Callable[..., Any]) -> Callable[..., Any]:
        def counted(params: Any, *args: Any, **kwargs: Any) -> Any:
            params = list(params)
            self.count(params)
            return fetch(params, *args, **kwargs)

        return counted
