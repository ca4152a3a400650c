"""Valid models, machines, workloads and scenarios for the property tests, from toy sizes to the largest."""

import dataclasses
import math

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

REAL_FAMILIES = ("a100", "hopper", "turing", "volta", "ada", "ga10x", "blackwell")

# -- models -------------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw, windows=True, latent=True, chunks=False):
    """Multi-head, grouped-query and multi-query attention, with a window or chunk, or latent attention."""
    if latent and draw(st.integers(0, 4)) == 0:
        return LatentAttention(
            num_heads=draw(st.sampled_from([8, 16, 128])),
            q_lora_rank=draw(st.sampled_from([None, 64, 1536])),
            kv_lora_rank=draw(st.sampled_from([32, 512])),
            qk_nope_head_dim=draw(st.sampled_from([16, 128])),
            qk_rope_head_dim=draw(st.sampled_from([8, 64])),
            v_head_dim=draw(st.sampled_from([16, 128])),
        )
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    limit = draw(st.sampled_from([None, 1, 7, 128, 4096])) if windows or chunks else None
    kind = (
        draw(st.sampled_from([name for name, on in (("window", windows), ("chunk", chunks)) if on]))
        if limit
        else "window"
    )
    return Attention(
        num_heads=8 * draw(st.sampled_from([1, 2, 4, 12])),
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 64, 80, 128, 256])),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        **{kind: limit},
    )


@st.composite
def mlps(draw, moe=True, dense=True):
    """Dense and gated feed-forward blocks, and mixtures of experts with and without shared ones."""
    ffn = 8 * draw(st.sampled_from([4, 128, 1024, 6144]))
    gated, bias = draw(st.booleans()), draw(st.booleans())
    if dense and (not moe or draw(st.booleans())):
        return DenseMLP(ffn_size=ffn, gated=gated, bias=bias)
    experts = draw(st.sampled_from([2, 8, 64, 256]))
    shared = draw(st.sampled_from([0, 256]))
    return MoEMLP(
        num_experts=experts,
        top_k=draw(st.integers(1, min(8, experts))),
        ffn_size=ffn,
        gated=gated,
        bias=bias,
        shared_ffn_size=shared,
        shared_gate=bool(shared) and draw(st.booleans()),
    )


@st.composite
def models(
    draw, windows=True, latent=True, chunks=False, moe=True, limited=False, encoders=False, only_moe=False
):
    """A decoder (or now and then an encoder) of one to three groups of layers.

    ``chunks`` is off unless asked for: chunked attention starts over at every multiple of the chunk, so that a longer
    context can be cheaper, in the model as in reality.
    """
    groups = draw(
        st.lists(
            st.builds(
                LayerGroup,
                count=st.sampled_from([1, 2, 12, 96]),
                attention=attentions(windows, latent, chunks),
                mlp=mlps(moe, not only_moe),
                norms=st.integers(1, 4),
                parallel_attention=st.booleans(),
            ),
            min_size=1,
            max_size=3,
        )
    )
    return ModelConfig(
        name="hypothetical",
        hidden_size=draw(st.sampled_from([64, 768, 4096, 16384])),
        vocab_size=8 * draw(st.sampled_from([16, 6400, 32000])),
        layer_groups=tuple(groups),
        tied_embeddings=draw(st.booleans()),
        lm_head_bias=draw(st.booleans()),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        learned_positions=draw(st.sampled_from([0, 2048])),
        max_position_embeddings=draw(st.sampled_from([None, 8192, 131072])) if limited else None,
        encoder=encoders and draw(st.integers(0, 5)) == 0,
    )


# -- machines -----------------------------------------------------------------------------------------------------


def real_efficiency(name: str) -> GPUEfficiency:
    """The measured efficiencies of a family."""
    return load_spec("efficiency", GPUEfficiency, name)


@st.composite
def efficiencies(draw):
    """The textbook's, a real family's, or a real family's with another knee."""
    if draw(st.integers(0, 3)) == 0:
        return TEXTBOOK
    family = real_efficiency(draw(st.sampled_from(REAL_FAMILIES)))
    knee = draw(st.sampled_from([None, 1.0, 2.0, 3.3, 8.0, math.inf]))
    return family if knee is None else family.replace(knee_exponent=knee)


@st.composite
def gpus(draw, efficiency=None, linked=None):
    """An accelerator between an old card and one of the next years. ``linked``: its GPU link is the faster one."""
    memory = draw(st.sampled_from([8.0, 16.0, 80.0, 192.0]))
    pcie = draw(st.sampled_from([3.9, 15.75, 63.0]))
    fast = Link(name="link", gb_per_s_per_direction=draw(st.sampled_from([150.0, 450.0])), topology="switch")
    fp16 = draw(st.floats(10, 3000))
    peaks = {"fp16": fp16, "fp32": fp16 / 8} | draw(
        st.sampled_from([{}, {"int8": 2 * fp16}, {"fp8": 2 * fp16}])
    )
    return GPUConfig(
        name="hypothetical",
        peak_tflops=peaks,
        memory_gib=memory,
        usable_memory_gib=memory * draw(st.floats(0.9, 1.0)),
        hbm_bandwidth_gb_per_s=draw(st.floats(100, 10_000)),
        l2_mib=draw(st.sampled_from([None, 4.0, 50.0])),
        sm_count=draw(st.sampled_from([None, 40, 132])),
        pcie_gb_per_s=pcie,
        link=fast if linked or (linked is None and draw(st.booleans())) else Link(),
        efficiency=draw(efficiencies()) if efficiency is None else efficiency,
    )


def _rate(draw, *choices: float) -> Rate | None:
    value = draw(st.sampled_from([None, *choices]))
    return value and Rate(gb_per_s=value, provenance="assumed", source="drawn")


@st.composite
def hosts(draw):
    """A node with a disk; each copy and disk rate stated or left to its default ratio."""
    memory = draw(st.sampled_from([32.0, 256.0, 2048.0]))
    return HostConfig(
        name="hypothetical",
        memory_gib=memory,
        usable_memory_gib=memory * 0.97,
        memory_bandwidth_gb_per_s_per_socket=draw(st.floats(50, 600)),
        pcie_gb_per_s=draw(st.sampled_from([None, 15.75, 63.0])),
        pinned_h2d=_rate(draw, 2.0, 12.0),
        pageable_h2d=_rate(draw, 1.0, 9.0),
        pinned_d2h=_rate(draw, 2.0, 12.0),
        cpu_attention_kv=_rate(draw, 5.0, 30.0),
        layer_overhead_ms=draw(st.sampled_from([{}, {"zero_inference": 0.0}, {"zero_inference": 3.0}])),
        disk=Disk(
            capacity_gib=draw(st.sampled_from([1000.0, 30000.0])),
            stated_read_gb_per_s=draw(st.floats(0.5, 30)),
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
    return st.sampled_from(_WEIGHTS)


def workloads(replicas=1, shortest_gen=1, longest=None):
    """Total batch (a multiple of the replicas), prompt and generated tokens, together at most ``longest``."""
    return st.builds(
        Workload,
        batch_size=st.sampled_from([1, 2, 7, 64, 500]).map(lambda batch: batch * replicas),
        prompt_len=st.sampled_from([1, 2, 100, 512, 3000, *([] if longest else [100_000])]),
        gen_len=st.sampled_from([length for length in (1, 2, 3, 33, 300, 5000) if length >= shortest_gen]),
    )


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
        tp = draw(st.sampled_from([1, 2, 4, 8]))
        parallelism = ParallelismConfig(
            tp_size=tp,
            sp_size=draw(st.sampled_from([1, tp])),
            pp_size=draw(st.integers(1, min(4, model.num_layers))),
            dp_size=draw(st.sampled_from([1, 2])),
        )
    return Scenario(
        model=model,
        gpu=draw(gpus() if gpu is None else gpu),
        host=draw(hosts()),
        system=system or draw(st.sampled_from(["resident", "fastertransformer"])),
        dtype=dtype or draw(dtypes()),
        parallelism=parallelism,
        workload=draw(workloads(parallelism.dp_size, shortest_gen, model.max_position_embeddings)),
        allow_long_context=model.max_position_embeddings is None,
    )


@st.composite
def offloads(draw):
    """Weights chosen by the system, on one tier or spread; the KV cache on the GPU or the host."""
    return OffloadConfig(
        weights=draw(
            st.sampled_from(
                [None, *map(Shares.on, ("gpu", "cpu", "nvme")), Shares(gpu=0.25, cpu=0.5, nvme=0.25)]
            )
        ),
        kv_cache=draw(st.sampled_from([None, Shares.on("cpu")])),
        pin_memory=draw(st.booleans()),
        prefetch=draw(st.sampled_from([None, True, False])),
        overlap=draw(st.sampled_from([None, False])),
    )


@st.composite
def zero_scenarios(
    draw, offload=None, model=None, gpu=None, ranks=None, shortest_gen=1, encoders=False, limited=False
):
    """ZeRO-Inference on one or several GPUs of one node."""
    model = draw(models(encoders=encoders, limited=limited) if model is None else model)
    replicas = draw(st.sampled_from([1, 2, 4])) if ranks is None else ranks
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
