"""Valid models, machines, workloads and scenarios for the property tests, from toy sizes to the largest."""

import dataclasses
import math
from functools import cache, lru_cache

from hypothesis import strategies as st

from llm_perf.config import (
    GPUConfig,
    HostConfig,
    ModelConfig,
    OffloadConfig,
    ParallelismConfig,
    Shares,
    Workload,
)
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import TEXTBOOK, GPUEfficiency, Link
from llm_perf.config.host import Disk, Rate
from llm_perf.config.loading import load_spec
from llm_perf.config.model import Attention, DenseMLP, LatentAttention, LayerGroup, MoEMLP
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Evaluation, Load, get_system, system_of

# A strategy is made once and validated once: made anew in each example it costs as much as what is drawn from it.


@lru_cache(maxsize=None, typed=True)
def among(*values):
    """One of these values."""
    return st.sampled_from(values)


integers, floats = cache(st.integers), lru_cache(maxsize=None, typed=True)(st.floats)
BOOLEANS = st.booleans()

REAL_FAMILIES = ("a100", "hopper", "turing", "volta", "ada", "ga10x", "blackwell")

# -- models -------------------------------------------------------------------------------------------------------


@cache
@st.composite
def attentions(draw, windows=True, latent=True, chunks=False):
    """Multi-head, grouped-query and multi-query attention, with a window or chunk, or latent attention."""
    if latent and draw(integers(0, 4)) == 0:
        return LatentAttention(
            num_heads=draw(among(8, 16, 128)),
            q_lora_rank=draw(among(None, 64, 1536)),
            kv_lora_rank=draw(among(32, 512)),
            qk_nope_head_dim=draw(among(16, 128)),
            qk_rope_head_dim=draw(among(8, 64)),
            v_head_dim=draw(among(16, 128)),
        )
    kv_heads = draw(among(1, 2, 4, 8))
    limit = draw(among(None, 1, 7, 128, 4096)) if windows or chunks else None
    kind = (
        draw(among(*(name for name, on in (("window", windows), ("chunk", chunks)) if on)))
        if limit
        else "window"
    )
    return Attention(
        num_heads=8 * draw(among(1, 2, 4, 12)),
        num_kv_heads=kv_heads,
        head_dim=draw(among(16, 64, 80, 128, 256)),
        qkv_bias=draw(BOOLEANS),
        output_bias=draw(BOOLEANS),
        **{kind: limit},
    )


@cache
@st.composite
def mlps(draw, moe=True, dense=True):
    """Dense and gated feed-forward blocks, and mixtures of experts with and without shared ones."""
    ffn = 8 * draw(among(4, 128, 1024, 6144))
    gated, bias = draw(BOOLEANS), draw(BOOLEANS)
    if dense and (not moe or draw(BOOLEANS)):
        return DenseMLP(ffn_size=ffn, gated=gated, bias=bias)
    experts = draw(among(2, 8, 64, 256))
    shared = draw(among(0, 256))
    return MoEMLP(
        num_experts=experts,
        top_k=draw(integers(1, min(8, experts))),
        ffn_size=ffn,
        gated=gated,
        bias=bias,
        shared_ffn_size=shared,
        shared_gate=bool(shared) and draw(BOOLEANS),
    )


@cache
def _layer_groups(windows, latent, chunks, moe, dense):
    return st.lists(
        st.builds(
            LayerGroup,
            count=among(1, 2, 12, 96),
            attention=attentions(windows, latent, chunks),
            mlp=mlps(moe, dense),
            norms=integers(1, 4),
            parallel_attention=BOOLEANS,
        ),
        min_size=1,
        max_size=3,
    )


@cache
@st.composite
def models(
    draw, windows=True, latent=True, chunks=False, moe=True, limited=False, encoders=False, only_moe=False
):
    """A decoder (or now and then an encoder) of one to three groups of layers.

    ``chunks`` is off unless asked for: chunked attention starts over at every multiple of the chunk, so that a longer
    context can be cheaper, in the model as in reality.
    """
    groups = draw(_layer_groups(windows, latent, chunks, moe, not only_moe))
    return ModelConfig(
        name="hypothetical",
        hidden_size=draw(among(64, 768, 4096, 16384)),
        vocab_size=8 * draw(among(16, 6400, 32000)),
        layer_groups=tuple(groups),
        tied_embeddings=draw(BOOLEANS),
        lm_head_bias=draw(BOOLEANS),
        norm=draw(among("layernorm", "rmsnorm")),
        learned_positions=draw(among(0, 2048)),
        max_position_embeddings=draw(among(None, 8192, 131072)) if limited else None,
        encoder=encoders and draw(integers(0, 5)) == 0,
    )


# -- machines -----------------------------------------------------------------------------------------------------


def real_efficiency(name: str) -> GPUEfficiency:
    """The measured efficiencies of a family."""
    return load_spec("efficiency", GPUEfficiency, name)


@cache
@st.composite
def efficiencies(draw):
    """The textbook's, a real family's, or a real family's with another knee."""
    if draw(integers(0, 3)) == 0:
        return TEXTBOOK
    family = real_efficiency(draw(among(*REAL_FAMILIES)))
    knee = draw(among(None, 1.0, 2.0, 3.3, 8.0, math.inf))
    return family if knee is None else family.replace(knee_exponent=knee)


def gpus(efficiency=None, linked=None):
    """An accelerator between an old card and one of the next years. ``linked``: its GPU link is the faster one."""
    return _of_any_efficiency(linked) if efficiency is None else _gpus(efficiency, linked)


@cache
def _of_any_efficiency(linked):
    return _gpus(None, linked)


@st.composite
def _gpus(draw, efficiency, linked):
    memory = draw(among(8.0, 16.0, 80.0, 192.0))
    pcie = draw(among(3.9, 15.75, 63.0))
    fast = Link(name="link", gb_per_s_per_direction=draw(among(150.0, 450.0)), topology="switch")
    fp16 = draw(floats(10, 3000))
    native_8bit = draw(among(None, "int8", "fp8"))
    peaks = {"fp16": fp16, "fp32": fp16 / 8} | ({native_8bit: 2 * fp16} if native_8bit else {})
    return GPUConfig(
        name="hypothetical",
        peak_tflops=peaks,
        memory_gib=memory,
        usable_memory_gib=memory * draw(floats(0.9, 1.0)),
        hbm_bandwidth_gb_per_s=draw(floats(100, 10_000)),
        l2_mib=draw(among(None, 4.0, 50.0)),
        sm_count=draw(among(None, 40, 132)),
        pcie_gb_per_s=pcie,
        link=fast if linked or (linked is None and draw(BOOLEANS)) else Link(),
        efficiency=draw(efficiencies()) if efficiency is None else efficiency,
    )


_LAYER_OVERHEADS_MS = st.sampled_from([{}, {"zero_inference": 0.0}, {"zero_inference": 3.0}])


def _rate(draw, *choices: float) -> Rate | None:
    value = draw(among(None, *choices))
    return value and Rate(gb_per_s=value, provenance="assumed", source="drawn")


@cache
@st.composite
def hosts(draw):
    """A node with a disk; each copy and disk rate stated or left to its default ratio."""
    memory = draw(among(32.0, 256.0, 2048.0))
    return HostConfig(
        name="hypothetical",
        memory_gib=memory,
        usable_memory_gib=memory * 0.97,
        memory_bandwidth_gb_per_s_per_socket=draw(floats(50, 600)),
        pcie_gb_per_s=draw(among(None, 15.75, 63.0)),
        pinned_h2d=_rate(draw, 2.0, 12.0),
        pageable_h2d=_rate(draw, 1.0, 9.0),
        pinned_d2h=_rate(draw, 2.0, 12.0),
        cpu_attention_kv=_rate(draw, 5.0, 30.0),
        layer_overhead_ms=draw(_LAYER_OVERHEADS_MS),
        disk=Disk(
            capacity_gib=draw(among(1000.0, 30000.0)),
            stated_read_gb_per_s=draw(floats(0.5, 30)),
            direct_read=_rate(draw, 0.5, 30.0),
        ),
        source="drawn",
    )


# -- questions ----------------------------------------------------------------------------------------------------

_WEIGHTS = (
    DtypeConfig(),
    DtypeConfig(weight_bits=8, quant_group_size=64),
    DtypeConfig(weight_bits=4, embedding_bits=4, quant_group_size=64),
    DtypeConfig(weight_bits=8, activation_bits=8, kv_bits=8),
    DtypeConfig(weight_bits=32, activation_bits=32, embedding_bits=32),
)


def dtypes():
    """16 bits, quantised weights with their scales, 8 bits throughout, 32 bits."""
    return among(*_WEIGHTS)


@cache
def workloads(replicas=1, shortest_gen=1, longest=None):
    """Total batch (a multiple of the replicas), prompt and generated tokens, together at most ``longest``."""
    return st.builds(
        Workload,
        batch_size=st.sampled_from([1, 2, 7, 64, 500]).map(lambda batch: batch * replicas),
        prompt_len=st.sampled_from([1, 2, 100, 512, 3000, *([] if longest else [100_000])]),
        gen_len=st.sampled_from([length for length in (1, 2, 3, 33, 300, 5000) if length >= shortest_gen]),
    )


@cache
@st.composite
def resident_scenarios(
    draw,
    system=None,
    model=None,
    gpu=None,
    dtype=None,
    parallel=False,
    shortest_gen=1,
    encoders=False,
    limited=False,
):
    """Everything on GPUs, on one or, if ``parallel``, on several that divide the model."""
    model = draw(models(encoders=encoders, limited=limited) if model is None else model)
    parallelism = ParallelismConfig()
    if parallel:
        tp = draw(among(1, 2, 4, 8))
        parallelism = ParallelismConfig(
            tp_size=tp,
            sp_size=draw(among(1, tp)),
            pp_size=draw(integers(1, min(4, model.num_layers))),
            dp_size=draw(among(1, 2)),
        )
    return Scenario(
        model=model,
        gpu=draw(gpus() if gpu is None else gpu),
        host=draw(hosts()),
        system=system or draw(among("resident", "fastertransformer")),
        dtype=dtype or draw(dtypes()),
        parallelism=parallelism,
        workload=draw(workloads(parallelism.dp_size, shortest_gen, model.max_position_embeddings)),
        allow_long_context=model.max_position_embeddings is None,
    )


@cache
@st.composite
def offloads(draw):
    """Weights chosen by the system, on one tier or spread; the KV cache on the GPU or the host."""
    return OffloadConfig(
        weights=draw(
            among(None, *map(Shares.on, ("gpu", "cpu", "nvme")), Shares(gpu=0.25, cpu=0.5, nvme=0.25))
        ),
        kv_cache=draw(among(None, Shares.on("cpu"))),
        pin_memory=draw(BOOLEANS),
        prefetch=draw(among(None, True, False)),
        overlap=draw(among(None, False)),
    )


@cache
@st.composite
def zero_scenarios(
    draw, offload=None, model=None, gpu=None, ranks=None, shortest_gen=1, encoders=False, limited=False
):
    """ZeRO-Inference on one or several GPUs of one node."""
    model = draw(models(encoders=encoders, limited=limited) if model is None else model)
    replicas = draw(among(1, 2, 4)) if ranks is None else ranks
    return Scenario(
        model=model,
        gpu=draw(gpus() if gpu is None else gpu),
        host=draw(hosts()),
        system="zero_inference",
        dtype=draw(dtypes()),
        parallelism=ParallelismConfig(dp_size=replicas),
        workload=draw(workloads(replicas, shortest_gen, model.max_position_embeddings)),
        offload=draw(offloads()) if offload is None else offload,
        allow_long_context=model.max_position_embeddings is None,
    )


@cache
def scenarios(**kwargs):
    """Any system; ``kwargs`` are those that both kinds take."""
    return st.one_of(resident_scenarios(parallel=True, **kwargs), zero_scenarios(**kwargs))


# -- asking -------------------------------------------------------------------------------------------------------


def load_of(scenario: Scenario, **changes: float) -> Load:
    """The scenario's own workload as numbers, with changes."""
    own = scenario.workload
    return dataclasses.replace(
        Load(float(own.batch_size), float(own.prompt_len), float(own.gen_len)), **changes
    )


def evaluate(scenario: Scenario, **changes: float) -> Evaluation:
    """The system's answer, for the scenario's own workload with changes."""
    return system_of(scenario).evaluate(scenario, load_of(scenario, **changes))


def keep_placement(scenario: Scenario) -> Scenario:
    """The scenario with the placement that its own workload gets, as if asked for."""
    if scenario.system != "zero_inference":
        return scenario
    shares = get_system("zero_inference").place(scenario, load_of(scenario)).weights
    weights = Shares(gpu=shares.gpu, cpu=shares.cpu, nvme=shares.nvme)
    return scenario.replace(offload=scenario.offload.replace(weights=weights))
