"""The class `LLMAnalysis`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pprint import pformat
from typing import Any

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig
from llm_perf.config.scenario import check_context
from llm_perf.errors import SpecError
from llm_perf.llm_analysis import LOGGER, output
from llm_perf.llm_analysis.arguments import checked, described
from llm_perf.llm_analysis.batching import complete_batching
from llm_perf.llm_analysis.count_methods import CountMethods
from llm_perf.llm_analysis.latency_methods import LatencyMethods
from llm_perf.llm_analysis.memory import ActivationOptions
from llm_perf.llm_analysis.memory_methods import MemoryMethods
from llm_perf.llm_analysis.setting_methods import SettingMethods
from llm_perf.llm_analysis.setup import GPUS_PER_NODE, Efficiencies, Setup
from llm_perf.llm_analysis.summary import Request, inference_summary
from llm_perf.llm_analysis.training import training_summary
from llm_perf.llm_analysis.training_request import TrainingRequest, checked_seq_len

_log = logging.getLogger(LOGGER)


class LLMAnalysis(SettingMethods, CountMethods, MemoryMethods, LatencyMethods):
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
        num_gpus_per_node: GPUs that one node's links join; what spans more of them uses the slower of both links.

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
        *,
        num_gpus_per_node: int = GPUS_PER_NODE,
    ) -> None:
        self._trained: tuple[Setup, float] | None = None
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
            num_gpus_per_node,
        )

    # -- analyses ----------------------------------------------------------------------------------------------

    @checked
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

        Returns:
            The summary: seconds, bytes, FLOPs, elements, tokens/s.

        Raises:
            SpecError: an argument is out of range.
            DoesNotFitError: weights, cache and activations exceed the GPU's memory.
            OutputError: the files cannot be written.
        """
        request = Request(
            batch=batch_size_per_gpu,
            prompt_len=seq_len,
            gen_len=num_tokens_to_generate,
            use_kv_cache=use_kv_cache,
            stage=ds_zero,
            layernorm_dtype_bytes=layernorm_dtype_bytes,
            kv_cache_dtype_bytes=kv_cache_dtype_bytes,
            cost_per_gpu_hour=cost_per_gpu_hour,
        )
        check_context(self.model_config, request.prompt_len, request.gen_len, allow_long_context)
        output.file_stem("", output_file_suffix)
        return self._published(inference_summary(self._setup, request), output_dir, output_file_suffix)

    @checked
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
        *,
        allow_long_context: bool = False,
    ) -> dict[str, Any]:
        """Steps of an optimizer with mixed precision, on as many sequences of ``seq_len`` tokens as are asked for.

        Of batch size, accumulation and global batch any two give the third; with none of them, or the global batch
        alone, the largest micro-batch that fits is taken. What does not exist is None: totals without
        ``total_num_tokens``. Latencies are seconds, memory is in bytes of the fullest GPU.

        Returns:
            The summary: seconds, bytes, FLOPs, elements.

        Raises:
            SpecError: an argument is out of range, or batch sizes or tokens do not go together.
            DoesNotFitError: the GPU's memory is too small; the message says by how much.
            OutputError: the files cannot be written.
        """
        request = TrainingRequest(
            batch=batch_size_per_gpu,
            accumulation=gradient_accumulation_steps,
            global_batch=global_batch_size,
            seq_len=checked_seq_len(
                self.model_config,
                seq_len,
                allow_long_context,
            ),
            total_num_tokens=total_num_tokens,
            stage=ds_zero,
            master_weights_bytes=master_weights_dtype_bytes,
            other_op_bytes=other_op_bytes,
            options=ActivationOptions(
                recompute=activation_recomputation,
                layernorm_dtype_bytes=layernorm_dtype_bytes,
                flash_attn=flash_attn,
                softmax_dropout=softmax_dropout,
                mlp_activation_quant_bits=mlp_activation_quant_bits,
                mlp_1linear_quant_bits=mlp_1linear_quant_bits,
                mlp_gelu_input_quant_bits=mlp_gelu_input_quant_bits,
                mlp_2linear_quant_bits=mlp_2linear_quant_bits,
                mlp_recompute_gelu=mlp_recompute_gelu,
            ),
        )
        output.file_stem("", output_file_suffix)
        summary = training_summary(self._setup, request)
        self._trained = (self._setup, summary["latency_weight_update"])
        return self._published(summary, output_dir, output_file_suffix)

    def get_latency_weight_update(self) -> float:
        """Seconds of the optimizer in the step that `training` analysed last.

        Raises:
            SpecError: nothing was analysed since the analysis was made or changed.
        """
        setup, seconds = self._trained or (None, 0.0)
        if setup is not self._setup:
            raise SpecError("get_latency_weight_update needs a training: call training() first")
        return seconds

    def _published(
        self, summary: dict[str, Any], output_dir: str | os.PathLike[str] | None, suffix: str
    ) -> dict[str, Any]:
        """The summary, after it was logged, and written if that is asked for."""
        if _log.isEnabledFor(logging.INFO):
            _log.info(self.get_readable_summary_dict(summary))
        if output_dir is not None:
            self.output_summary_dict(summary, output_dir, output_file_suffix=suffix)
        return summary

    @described
    def config_batch_size_and_gradient_accumulation_steps(
        self,
        max_batch_size_per_gpu: int,
        batch_size_per_gpu: int | None = None,
        gradient_accumulation_steps: int | None = None,
        global_batch_size: int | None = None,
    ) -> tuple[int, int, int]:
        """(batch per GPU, accumulation steps, global batch), what is not given derived from the others.

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
        """A summary as lines of text with units."""
        return output.readable(summary_dict, title)

    def output_summary_dict(
        self,
        summary_dict: Mapping[str, Any],
        output_dir: str | os.PathLike[str],
        print_human_readable: bool = True,
        output_file_suffix: str = "",
    ) -> None:
        """Write a summary as ``<configuration><suffix>-summary.json``, and as text beside it.

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
        """Print model, GPU, number formats and layout on stderr."""
        parts = (self.model_config, self.gpu_config, self.dtype_config, self.parallelism_config)
        lines = [name.center(output.LINE_WIDTH, "-"), *(pformat(part) for part in parts)]
        sys.stderr.write("\n".join(["", *lines, ""]))
