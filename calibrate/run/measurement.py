"""Loading the model, the timed loops, and the result made of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calibrate.probe.tensors import torch_dtype
from calibrate.probe.usage import (
    DeviceMeter,
    Repeat,
    folder_bytes,
    peak_memory,
    peak_rss_bytes,
    release_unused,
    reset_peak_memory,
    reset_peak_rss,
    rss_bytes,
)
from calibrate.run.fetches import Fetches
from calibrate.run.greedy import generate_arguments
from calibrate.run.hooks import PREFILL, add_model_hooks, set_model_stage
from calibrate.run.kv_offload import Traffic, make_cache
from calibrate.run.model_config import model_folder
from calibrate.run.prompts import encode_prompts, get_tokenizer
from calibrate.run.quantisation import quantisation_report
from calibrate.run.session import Session, checkpoint_folder, has_room_for_checkpoint
from calibrate.run.settings import RunSettings
from calibrate.run.timer import timers

_TIMER = "generate-forward"


@dataclass
class Measured:
    """What the loops leave."""

    loops: list[dict[str, Any]] = field(default_factory=list)
    warmup: list[dict[str, Any]] = field(default_factory=list)
    tokens: Any = None
    text: list[str] | None = None
    peak: dict[str, int | None] = field(default_factory=dict)
    swapped_bytes: int = 0
    disk_bytes_per_pass: int = 0
    quantisation: dict[str, Any] = field(default_factory=dict)
    kv_host_bytes: int = 0
    fetches: Fetches = field(default_factory=Fetches)
    ranks: list[dict[str, Any]] = field(default_factory=list)


def measure_cases(session: Session, cases: Sequence[RunSettings]) -> list[dict[str, Any]]:
    """Load once and measure several workloads, each with a record of its own; empty in all ranks but the first.

    Args:
        session: Of the first case.
        cases: Settings that differ in batch and lengths only.
    """
    from calibrate.run.result import build_result

    results = []
    with _joined(session) as group:
        overhead, unpack = _probe(session)
        weights = _weights(session, group)
        session.progress.say("loading the model")
        release_unused(session.device)
        reset_peak_rss()
        session.baseline_bytes = rss_bytes()
        with _loaded(session, weights) as model:
            _barrier(group)
            tokenizer = None if session.settings.dummy or weights is None else get_tokenizer(weights)
            loaded = _describe_loaded(session, model)
            for case in cases:
                if case is not session.settings:
                    session.take(case)
                measured = replace(loaded, loops=[], warmup=[], peak={})
                _loops(session, model, tokenizer, measured)
                tokens = gathered(group, session, measured.tokens.tolist())
                measured.tokens = [row for part in tokens for row in part]
                measured.ranks = gathered(group, session, _of_this_rank(session, measured))
                if tokenizer is not None:
                    measured.text = tokenizer.batch_decode(measured.tokens, skip_special_tokens=True)
                if session.rank.first:
                    results.append(build_result(session, measured, overhead, unpack))
    return results


@contextlib.contextmanager
def _joined(session: Session) -> Iterator[Any]:
    """The process group, with the rate at which its ranks gather; None for a plain run."""
    if session.settings.system == "transformers":
        yield None
        return
    from calibrate.probe.ranks import process_group

    with process_group(session.rank, session.device.backend) as group:
        if session.rank.world_size > 1:
            from calibrate.probe.collective import gather_bytes_per_s
            from calibrate.probe.local_machine import with_gather_rate

            rate = gather_bytes_per_s(session.rank.world_size, session.device)
            session.machine = with_gather_rate(session.machine, rate)
        yield group


def _probe(session: Session) -> tuple[Any, float | None]:
    """Measured host time per layer, and on a CPU the cost of unpacking a weight."""
    from calibrate.probe.local_machine import dequantisation_s_per_weight
    from calibrate.run.layer_overhead import measure_layer_overhead

    s = session.settings
    overhead = measure_layer_overhead(session.config, s, torch_dtype(session.dtype), session.device)
    unpack = None
    if s.weight_quantize and session.device.kind == "cpu":
        unpack = dequantisation_s_per_weight(s.quant_bits, s.quant_group_size, session.dtype)
    return overhead, unpack


def _weights(session: Session, group: Any) -> Path | str | None:
    """Where the weights come from: a folder or hub id, or None for random ones straight into place."""
    from calibrate.run.weights import empty_model, write_dummy_checkpoint

    s = session.settings
    if not s.dummy:
        return model_folder(s.model_name) or session.config.name_or_path
    if not (s.system == "transformers" and s.dummy_on_disk is None):
        room = has_room_for_checkpoint(session) if s.dummy_on_disk is None else s.dummy_on_disk
        # Asked at the same time of all, before one of them fills the disk: else they would load different weights.
        if not all(gathered(group, session, room)):
            return None
    folder = checkpoint_folder(session)
    if session.rank.local_rank == 0:
        session.progress.say("writing dummy weights")
        write_dummy_checkpoint(empty_model(session.config), folder, torch_dtype(session.dtype), s.seed)
    _barrier(group)
    return folder


def _barrier(group: Any) -> None:
    if group is not None:
        group.barrier()


@contextlib.contextmanager
def _loaded(session: Session, weights: Path | str | None) -> Iterator[Any]:
    """The model, under ZeRO-3 or plain, let go of at the end."""
    dtype = torch_dtype(session.dtype)
    if session.settings.system == "transformers":
        yield load_plain(session.config, weights, dtype, session.device)
        return
    from calibrate.run.ds_config import get_ds_config
    from calibrate.run.ds_model import get_ds_model

    ds_config = get_ds_config(
        session.settings,
        session.model.hidden_size,
        session.largest_param,
        session.dtype,
        session.device.kind,
        str(session.swap_folder),
    )
    zero = get_ds_model(session.config, weights, dtype, ds_config, session.settings.seed)
    try:
        yield zero.module
    finally:
        zero.close()


def load_plain(config: Any, weights: Path | str | None, dtype: Any, device: Any) -> Any:
    """The same model as transformers runs it, whole on the device; with weights of its own where there are none.

    Raises:
        EnvironmentFailure: the weights cannot be had.
    """
    from transformers import AutoModelForCausalLM

    from calibrate.run.ds_model import no_weights
    from llm_perf.errors import EnvironmentFailure

    if weights is None:
        import torch

        with device.torch_device, torch.no_grad():
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    try:
        model = AutoModelForCausalLM.from_pretrained(str(weights), dtype=dtype)
    except OSError as error:
        raise EnvironmentFailure(no_weights(str(weights), error)) from None
    return model.to(device.torch_device).eval()


def _describe_loaded(session: Session, model: Any) -> Measured:
    """What loading left: swap files, quantised tensors, bytes that each pass has to move."""
    import warnings

    found = Measured()
    if session.settings.disk_offload:
        own = session.swap_folder.glob(f"zero_stage_3/*/rank{session.rank.rank}")
        found.swapped_bytes = sum(map(folder_bytes, own))
        found.disk_bytes_per_pass = _live_swap_bytes(model)
        if found.swapped_bytes == 0:
            warnings.warn(
                "no weight went to disk: DeepSpeed keeps tensors below 1 MiB in memory, and this model has no others",
                stacklevel=2,
            )
    found.quantisation = quantisation_report(model, session.settings.quant_bits)
    found.fetches.watch(model)
    return found


def _live_swap_bytes(model: Any) -> int:
    """Bytes of the swap files that a pass reads. A head that was tied after it was made left a file that nobody reads."""
    return sum(
        Path(param.nvme_swapper.id_to_path[param.ds_id]).stat().st_size
        for param in model.parameters()
        if getattr(param, "nvme_swapper", None) is not None and param.ds_id in param.nvme_swapper.id_to_path
    )


def _of_this_rank(session: Session, measured: Measured) -> dict[str, Any]:
    """What belongs to a rank and not to the run."""
    energies = [loop["energy_j"] for loop in measured.loops if loop["energy_j"] is not None]
    return {
        "rank": session.rank.rank,
        "host": socket.gethostname(),
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_allocated_bytes": measured.peak["allocated_bytes"],
        "peak_reserved_bytes": measured.peak["reserved_bytes"],
        "bytes_swapped_to_disk": measured.swapped_bytes,
        "disk_bytes_per_pass": measured.disk_bytes_per_pass,
        "energy_j_per_loop": sum(energies) / len(energies) if energies else None,
    }


# -- loops ----------------------------------------------------------------------------------------------------


def _loops(session: Session, model: Any, tokenizer: Any, measured: Measured) -> None:
    """Warm up, then the timed loops; each finished one is in the run file before the next begins."""
    s = session.settings
    per_rank = s.batch_size // s.ranks
    inputs = encode_prompts(
        tokenizer, per_rank, s.prompt_len, session.config.vocab_size, s.seed, session.device.torch_device,
        session.rank.rank * per_rank,
    )  # fmt: skip
    handles = add_model_hooks(model, session.device.synchronize)
    meter = DeviceMeter(session.device)
    timers(_TIMER).reset()
    reset_peak_memory(session.device)
    try:
        for turn in range(-s.warmup, s.loops + session.spare_loops):
            if turn >= s.loops and sum(not loop["disturbed"] for loop in measured.loops) >= s.loops:
                break
            session.progress.say(f"loop {turn + 1} of {s.loops}" if turn >= 0 else "warming up")
            one = _one_loop(session, model, inputs, meter, measured)
            (measured.loops if turn >= 0 else measured.warmup).append(one)
            measured.peak = _larger(measured.peak, peak_memory(session.device))
            if session.rank.first:
                session.record.save(
                    run=run_object(session), raw={"loops": measured.loops, "warmup": measured.warmup}
                )
    finally:
        for handle in handles:
            handle.remove()


def _one_loop(
    session: Session, model: Any, inputs: dict[str, Any], meter: DeviceMeter, measured: Measured
) -> dict[str, Any]:
    """Generate once; its latencies and what else was counted."""
    import torch

    s, timer, traffic = session.settings, timers(_TIMER), Traffic()
    cache = None
    if s.kv_offload:
        cache = make_cache(
            session.device.torch_device, s.prompt_len + s.gen_len, s.pin_kv_cache, s.async_kv_offload, traffic
        )
    fetches = measured.fetches
    own, others = fetches.own_bytes, fetches.others_bytes
    with Repeat(meter) as repeat, torch.no_grad():
        timer.start(sync_func=session.device.synchronize)
        set_model_stage(model, PREFILL)
        output = model.generate(**inputs, **generate_arguments(model, s.gen_len, cache))
        timer.stop(sync_func=session.device.synchronize)
    measured.tokens = output[:, s.prompt_len :]
    measured.kv_host_bytes = cache.host_bytes if cache is not None else 0
    return {
        "prefill_s": model.__duration__,
        "total_s": timer.costs[-1],
        "decode_steps_s": list(model.__step_durations__),
        "weights_fetched_bytes": fetches.own_bytes - own,
        "weights_gathered_bytes": fetches.others_bytes - others,
        "kv_to_host_bytes": traffic.to_host_bytes,
        "kv_to_device_bytes": traffic.to_device_bytes,
        **repeat.found,
    }


def gathered(group: Any, session: Session, own: Any) -> list[Any]:
    """What each rank has, in the order of the ranks. All of them have to ask."""
    if group is None or session.rank.world_size == 1:
        return [own]
    import torch

    parts: list[Any] = [None] * session.rank.world_size
    torch.distributed.all_gather_object(parts, own)
    return parts


def _larger(one: dict[str, int | None], other: dict[str, int | None]) -> dict[str, int | None]:
    return {
        name: value if one.get(name) is None or value is None else max(value, one[name] or 0)
        for name, value in other.items()
    }


def run_object(session: Session) -> dict[str, Any]:
    """The settings as they were in the end."""
    return session.settings.model_dump() | {
        "model_name": session.model.name,
        "dtype": session.dtype,
        "device": session.device.kind,
        "ranks": session.settings.ranks,
    }
