"""Kernels of latent attention that gather the tokens which an indexer picked (DeepSeek sparse attention).

They multiply queries with the latents themselves, in prompts as in decode steps, in tiles of so many heads: what tensor ranks
leave a rank is padded to whole tiles. A query has always as many places as tokens are picked, empty ones among them.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.model import Mixer

NO_ROWS_LOST = 1e12
"""Queries that stand for a kernel which loses no rows of tiles: the heads of each query fill tiles by themselves."""


def _padding(constants: Mapping[str, float], gpu: GPUConfig, mixer: Mixer, tp: int) -> float:
    """Times that the heads of one rank count in a kernel that gathers; 0 where there is no such kernel."""
    if not isinstance(mixer, LatentAttention) or mixer.selected is None or gpu.maker != "nvidia":
        return 0.0
    heads, memory = mixer.num_heads / tp, gpu.has_tensor_memory
    tile = constants["gathered_heads_tensor_memory" if memory else "gathered_heads"]
    if memory and heads <= constants["gathered_few_heads"]:
        return 1.0
    return -(-heads // tile) * tile / heads if tile > 0 else 0.0


def decode_padding(constants: Mapping[str, float], gpu: GPUConfig, mixer: Mixer, tp: int) -> float:
    """Times that the arithmetic of one rank's heads counts in decode steps, which some engines run without such tiles."""
    return (_padding(constants, gpu, mixer, tp) or 1.0) if constants["gathered_decode_pads"] else 1.0


def gathered_flops(constants: Mapping[str, float], gpu: GPUConfig, mixer: Mixer, tp: int) -> float:
    """FLOPs of one query of a prompt in one layer on one rank; 0 where no kernel gathers."""
    places = mixer.saturates_at or 0
    return _padding(constants, gpu, mixer, tp) * places * mixer.score_flops_per_pair(tp, absorbed=True)


def gathers_beyond(constants: Mapping[str, float], mixer: Mixer) -> float:
    """Tokens up to which a prompt is attended to by plain kernels, since all of them would be picked."""
    return 0.0 if constants["short_prompts_gather"] else float(mixer.saturates_at or 0)
