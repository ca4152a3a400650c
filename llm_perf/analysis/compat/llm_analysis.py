"""The class `LLMAnalysis`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pprint import pformat
from typing import Any

from llm_perf.analysis.compat import checks, output
from llm_perf.analysis.compat.batching import complete_batching
from llm_perf.analysis.compat.count_methods import CountMethods
from llm_perf.analysis.compat.latency_methods import LatencyMethods
from llm_perf.analysis.compat.memory_methods import MemoryMethods
from llm_perf.analysis.compat.parameters import parameter_totals
from llm_perf.analysis.compat.setup import Efficiencies, Setup
from llm_perf.analysis.compat.summary import Request, inference_summary
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig
from llm_perf.config.scenario import check_context

_log = logging.getLogger(__name__)

NO_TRAINING_YET = "the training analysis is not available yet; inference() and the get_* methods are"


class LLMAnalysis(CountMethods, MemoryMethods, LatencyMethods):
    """Latency and memory of one model on one kind of GPU, as a textbook roofline.

    Arithmetic and memory traffic of a module overlap perfectly, kernels cost nothing to launch, and efficiencies are
    what is passed here: the GPU's own measured ones, floors and system times are left out. Memory is the nominal
    size x 2**30. Batch sizes are per GPU.

    Args:
        model_config: The model.
        gpu_config: The GPU.
        dtype_config: Number formats.
        parallelism_config: Ranks per kind of parallelism.
        achieved_tflops: TFLOP/s that are reached in the number format in use; goes before ``flops_efficiency``.
        achieved_memory_bandwidth_GBs: GB/s that are reached; goes before ``hbm_memory_efficiency``.
        flops_efficiency: Share of the peak, above 0 and at most 1; None for 1.
        hbm_memory_efficiency: Share of the device memory bandwidth; None for 1.
        intra_node_memory_efficiency: Share of the bandwidth between the GPUs of a node.
        inter_node_memory_efficiency: Share of the bandwidth between nodes.

    Raises:
        SpecError: an argument is of the wrong kind or out of range, or the model cannot be divided as asked.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        gpu_config: GPUConfig,
        dtype_config: DtypeConfig = DtypeConfig(),  # noqa: B008 - immutable, and seed 002's default
        parallelism_config: ParallelismConfig = ParallelismConfig(),  # noqa: B008 - the same
        achieved_tflops: float | None = None,
        achieved_memory_bandwidth_GBs: float | None = None,
        flops_efficiency: float | None = None,
        hbm_memory_efficiency: float | None = None,
        intra_node_memory_efficiency: float = 1.0,
        inter_node_memory_efficiency: float = 1.0,
    ) -> None:
        self._setup = Setup(
            model_config,
            gpu_config,
            dtype_config,
            parallelism_config,
            Efficiencies(
                achieved_tflops,
                achieved_memory_bandwidth_GBs,
                flops_efficiency,
                hbm_memory_efficiency,
                intra_node_memory_efficiency,
                inter_node_memory_efficiency,
            ),
        )

    # -- what it is about --------------------------------------------------------------------------------------

    @property
    def model_config(self) -> ModelConfig:
        """The model; replaced by `update_model_config`."""
        return self._setup.model

    @property
    def gpu_config(self) -> GPUConfig:
        """The GPU; replaced by `update_gpu_config`."""
        return self._setup.gpu

    @property
    def dtype_config(self) -> DtypeConfig:
        """Number formats; replaced by `update_dtype_config`."""
        return self._setup.dtype

    @property
    def parallelism_config(self) -> ParallelismConfig:
        """Ranks per kind of parallelism; replaced by `update_parallelism_config`."""
        return self._setup.parallelism

    @property
    def flops_efficiency(self) -> float:
        """Share of the peak in use."""
        return self._setup.flops_efficiency

    @property
    def hbm_memory_efficiency(self) -> float:
        """Share of the device memory bandwidth in use."""
        return self._setup.hbm_memory_efficiency

    @property
    def intra_node_memory_efficiency(self) -> float:
        """Share of the bandwidth within a node in use."""
        return self._setup.efficiencies.intra_node

    @property
    def inter_node_memory_efficiency(self) -> float:
        """Share of the bandwidth between nodes in use."""
        return self._setup.efficiencies.inter_node

    @property
    def total_num_params(self) -> float:
        """Elements of the whole model."""
        return parameter_totals(self._setup).total

    @property
    def total_num_params_mlp(self) -> float:
        """Elements of all feed-forward matrices."""
        return parameter_totals(self._setup).mlp

    @property
    def total_num_params_embedding(self) -> float:
        """Elements of tables and LM head."""
        return parameter_totals(self._setup).embedding

    @property
    def total_num_params_others(self) -> float:
        """Elements of everything else."""
        return parameter_totals(self._setup).others

    @property
    def total_num_active_params(self) -> float:
        """Elements that one token uses."""
        return parameter_totals(self._setup).active

    # -- changes: each replaces one part and checks the whole again; on an error nothing changes ---------------

    def update_model_config(self, model_config: ModelConfig) -> None:
        """Analyse another model."""
        self._setup = replace(self._setup, model=model_config)

    def update_gpu_config(self, gpu_config: GPUConfig) -> None:
        """Analyse another GPU. An ``achieved_*`` argument of the constructor stays what is reached."""
        self._setup = replace(self._setup, gpu=gpu_config)

    def update_dtype_config(self, dtype_config: DtypeConfig) -> None:
        """Analyse other number formats."""
        self._setup = replace(self._setup, dtype=dtype_config)

    def update_parallelism_config(self, parallelism_config: ParallelismConfig) -> None:
        """Analyse another layout over GPUs."""
        self._setup = replace(self._setup, parallelism=parallelism_config)

    def update_float_efficiency(self, flops_efficiency: float) -> None:
        """Set the share of the peak; it goes before an ``achieved_tflops`` given earlier."""
        self._update_efficiencies(
            flops=checks.fraction("flops_efficiency", flops_efficiency), achieved_tflops=None
        )

    def update_hbm_memory_efficiency(self, hbm_memory_efficiency: float) -> None:
        """Set the share of the memory bandwidth; it goes before an ``achieved_memory_bandwidth_GBs``."""
        share = checks.fraction("hbm_memory_efficiency", hbm_memory_efficiency)
        self._update_efficiencies(hbm=share, achieved_memory_bandwidth_GBs=None)

    def update_intra_node_memory_efficiency(self, intra_node_memory_efficiency: float) -> None:
        """Set the share of the bandwidth within a node."""
        self._update_efficiencies(intra_node=intra_node_memory_efficiency)

    def update_inter_node_memory_efficiency(self, inter_node_memory_efficiency: float) -> None:
        """Set the share of the bandwidth between nodes."""
        self._update_efficiencies(inter_node=inter_node_memory_efficiency)

    def _update_efficiencies(self, **changes: float | None) -> None:
        efficiencies = replace(self._setup.efficiencies, **changes)  # type: ignore[arg-type]
        self._setup = replace(self._setup, efficiencies=efficiencies)

    # -- analyses ----------------------------------------------------------------------------------------------

    def inference(
        self,
        batch_size_per_gpu: int = 1,
        seq_len: int = 512,
        num_tokens_to_generate: int = 32,
        use_kv_cache: bool = True,
        ds_zero: DSZeRO = DSZeRO.NONE,
        layernorm_dtype_bytes: float = 2,
        kv_cache_dtype_bytes: float | None = None,
        cost_per_gpu_hour: float | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        output_file_suffix: str = "",
        *,
        allow_long_context: bool = False,
    ) -> dict[str, Any]:
        """One prefill of ``seq_len`` tokens, which makes the first token, and a decode step for each further one.

        ``decode_latency`` is that of the mean step, ``total_decode_latency`` of all of them. A batch passes all
        pipeline stages, one batch at a time. What does not exist is None: the decode phase of one token or of an
        encoder.

        Args:
            batch_size_per_gpu: Sequences per GPU (per replica of tp x pp GPUs).
            seq_len: Tokens of each prompt.
            num_tokens_to_generate: Tokens to generate for each prompt.
            use_kv_cache: Whether keys and values are kept; else each step computes the whole sequence again.
            ds_zero: ZeRO stage as a member or its number; stage 3 shards and gathers weights.
            layernorm_dtype_bytes: Bytes per element of the norms' inputs.
            kv_cache_dtype_bytes: Bytes per cache element; None for those of the number format.
            cost_per_gpu_hour: Price of one GPU for one hour; adds the cost of 1000 tokens.
            output_dir: Folder for the summary as JSON and as text.
            output_file_suffix: What the files' names have after the configuration.
            allow_long_context: Whether prompt and generation may exceed the model's positions.

        Returns:
            The summary: seconds, bytes, FLOPs, elements, tokens/s.

        Raises:
            SpecError: an argument is out of range.
            DoesNotFitError: weights, cache and activations exceed the GPU's memory.
            OutputError: the files cannot be written.
        """
        request = Request(
            batch=checks.positive_int("batch_size_per_gpu", batch_size_per_gpu),
            prompt_len=checks.positive_int("seq_len", seq_len),
            gen_len=checks.positive_int("num_tokens_to_generate", num_tokens_to_generate),
            use_kv_cache=checks.flag("use_kv_cache", use_kv_cache),
            stage=DSZeRO.of(ds_zero),
            layernorm_dtype_bytes=checks.positive("layernorm_dtype_bytes", layernorm_dtype_bytes),
            kv_cache_dtype_bytes=None
            if kv_cache_dtype_bytes is None
            else checks.positive("kv_cache_dtype_bytes", kv_cache_dtype_bytes),
            cost_per_gpu_hour=None
            if cost_per_gpu_hour is None
            else checks.not_negative("cost_per_gpu_hour", cost_per_gpu_hour),
        )
        check_context(self.model_config, request.prompt_len, request.gen_len, allow_long_context)
        output.file_stem("", output_file_suffix)
        summary = inference_summary(self._setup, request)
        if _log.isEnabledFor(logging.INFO):
            _log.info(self.get_readable_summary_dict(summary))
        if output_dir is not None:
            self.output_summary_dict(summary, output_dir, output_file_suffix=output_file_suffix)
        return summary

    def training(
        self,
        batch_size_per_gpu: int | None = None,
        gradient_accumulation_steps: int | None = None,
        global_batch_size: int | None = None,
        seq_len: int | None = None,
        total_num_tokens: int | None = None,
        activation_recomputation: ActivationRecomputation = ActivationRecomputation.NONE,
        ds_zero: DSZeRO = DSZeRO.NONE,
        layernorm_dtype_bytes: float = 4,
        master_weights_dtype_bytes: float = 4,
        other_op_bytes: float | None = None,
        flash_attn: bool = True,
        softmax_dropout: bool = False,
        mlp_activation_quant_bits: int | None = None,
        mlp_1linear_quant_bits: int | None = None,
        mlp_gelu_input_quant_bits: int | None = None,
        mlp_2linear_quant_bits: int | None = None,
        mlp_recompute_gelu: bool = False,
        output_dir: str | os.PathLike[str] | None = None,
        output_file_suffix: str = "",
    ) -> dict[str, Any]:
        """Not available yet.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_TRAINING_YET)

    def get_latency_weight_update(self) -> float:
        """Not available yet: the seconds in which `training`'s optimizer goes over weights, gradients and state.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_TRAINING_YET)

    def config_batch_size_and_gradient_accumulation_steps(
        self,
        max_batch_size_per_gpu: int,
        batch_size_per_gpu: int | None = None,
        gradient_accumulation_steps: int | None = None,
        global_batch_size: int | None = None,
    ) -> tuple[int, int, int]:
        """(batch per GPU, accumulation steps, global batch), what is not given derived from the others.

        Args:
            max_batch_size_per_gpu: Sequences that fit on a GPU.
            batch_size_per_gpu: Sequences of one micro-batch.
            gradient_accumulation_steps: Micro-batches per step of the optimizer.
            global_batch_size: Sequences per step of the optimizer over all replicas.

        Raises:
            SpecError: they do not multiply to the global batch.
            DoesNotFitError: a batch has to be chosen and not even one sequence fits.
        """
        return complete_batching(
            max_batch_size_per_gpu,
            self.parallelism_config.dp_size,
            batch_size_per_gpu,
            gradient_accumulation_steps,
            global_batch_size,
        )

    # -- text and files ----------------------------------------------------------------------------------------

    def get_configs_desc(self) -> str:
        """Names of the parts, sizes of the layout and both efficiencies, as files are named."""
        p = self.parallelism_config
        return (
            f"{self.model_config.name}-{self.gpu_config.name}-{self.dtype_config.name}"
            f"-tp{p.tp_size}-pp{p.pp_size}-dp{p.dp_size}-sp{p.sp_size}-fe{round(self.flops_efficiency, 2)}"
            f"-ep{p.ep_size}-hbme{round(self.hbm_memory_efficiency, 2)}"
        )

    def get_readable_summary_dict(self, summary_dict: Mapping[str, Any], title: str = "Summary") -> str:
        """A summary as lines of text with units.

        Args:
            summary_dict: What `inference` returned.
            title: The first line.
        """
        return output.readable(summary_dict, title)

    def output_summary_dict(
        self,
        summary_dict: Mapping[str, Any],
        output_dir: str | os.PathLike[str],
        print_human_readable: bool = True,
        output_file_suffix: str = "",
    ) -> None:
        """Write a summary as ``<configuration><suffix>-summary.json``, and as text beside it.

        Args:
            summary_dict: What `inference` returned.
            output_dir: The folder; it is made where there is none.
            print_human_readable: Whether to write ``<configuration><suffix>-summary-readable.txt`` too.
            output_file_suffix: What the names have after the configuration.

        Raises:
            SpecError: the suffix cannot be part of a file name.
            OutputError: the files cannot be written; none is left half-written.
        """
        stem = output.file_stem(self.get_configs_desc(), output_file_suffix)
        texts = {f"{stem}-summary.json": output.as_json(summary_dict)}
        if print_human_readable:
            texts[f"{stem}-summary-readable.txt"] = self.get_readable_summary_dict(summary_dict)
        output.write_all(output_dir, texts)

    def print_config(self, name: str = "Training Configs") -> None:
        """Print model, GPU, number formats and layout on stderr.

        Args:
            name: The first line.
        """
        parts = (self.model_config, self.gpu_config, self.dtype_config, self.parallelism_config)
        lines = [name.center(output.LINE_WIDTH, "-"), *(pformat(part) for part in parts)]
        sys.stderr.write("\n".join(["", *lines, ""]))
