"""The published measurement that is nearest to a prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from calibrate.evidence.published.cells import TRUST_GRADES
from calibrate.evidence.published.inference_rows import inference_measurement
from calibrate.evidence.published.names import canonical_gpu, canonical_model, canonical_system, plain
from calibrate.evidence.published.records import Measurement, Tier
from calibrate.evidence.published.tables import shipped_rows
from llm_perf.errors import bad_value

MAX_DISTANCE = 3.0
"""No row farther than this is a neighbour: a factor of 20 in the batch or the prompt alone, of 4 in both."""
_OTHER_MODEL = 2.0
_PER_FACTOR_OF_PARAMS = 2.0  # x |ln ratio|: with _OTHER_MODEL, sizes may differ by a factor of 1.6 at most
_OTHER_TIER = 2.0
_TIER_NOT_STATED = 0.5
_PER_HALVING_OF_WEIGHT_BITS = 1.0
_PER_HALVING_OF_KV_BITS = 0.5
_NO_PREFILL = 1.0
_NO_DECODE = 2.0  # more than _NO_PREFILL: most of a run's time is decode
_PER_FACTOR_OF_GEN_LEN = 0.5  # the time per token hardly depends on how many tokens follow


@dataclass(frozen=True)
class Asked:
    """What a prediction is about, as far as it decides how near a measurement is.

    Attributes:
        model: Canonical name, such as ``facebook/opt-175b``.
        batch_size: Sequences of the whole deployment.
        prompt_len: Tokens per prompt.
        gen_len: Tokens generated per sequence.
        weight_bits: Bits per weight.
        kv_bits: Bits per cached element.
        weight_tier: Slowest tier that holds a part of the weights; None = any.
        model_params: Parameters; None = those of the measurements of this model, if there are any.

    Raises:
        SpecError: a size is no positive integer, or the tier is unknown.
    """

    model: str
    batch_size: int
    prompt_len: int
    gen_len: int
    weight_bits: int = 16
    kv_bits: int = 16
    weight_tier: Tier | None = None
    model_params: float | None = None

    def __post_init__(self) -> None:
        for field in ("batch_size", "prompt_len", "gen_len", "weight_bits", "kv_bits"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad_value(field, value, "a positive integer")
        if self.weight_tier not in ("gpu", "cpu", "nvme", None):
            raise bad_value("weight_tier", self.weight_tier, "gpu, cpu, nvme or None")
        if self.model_params is not None and not 0 < self.model_params < math.inf:
            raise bad_value("model_params", self.model_params, "a positive number")


def distance(asked: Asked, measurement: Measurement) -> float:
    """How far a measurement is from what is asked, for the same GPU, system and number of GPUs.

    A sum, in which 1 is a factor of e in the batch or in the prompt length:

    - another model: 2, and 2 x |ln ratio of parameter counts|, so that the model comes first
    - weights on another tier: 2; on a tier that the source does not state: 0.5
    - weight bits: 1 per halving; cache bits: 0.5 per halving where stated
    - batch size and prompt length: |ln ratio|; a row without a prefill: 1
    - generation length: |ln ratio| / 2, as it hardly changes the time per token; a row without decode: 2

    Returns:
        The distance, 0 for the same inputs; infinity where the measurement has no batch size or the size of
        the model is unknown. Above `MAX_DISTANCE` the row is no neighbour.
    """
    if measurement.batch_size is None:
        return math.inf
    return (
        _model_distance(asked, measurement)
        + _tier_distance(asked.weight_tier, measurement.weight_tier)
        + _PER_HALVING_OF_WEIGHT_BITS * abs(math.log2(asked.weight_bits / measurement.weight_bits))
        + _PER_HALVING_OF_KV_BITS * abs(math.log2(asked.kv_bits / (measurement.kv_bits or asked.kv_bits)))
        + abs(math.log(asked.batch_size / measurement.batch_size))
        + _prompt_distance(asked.prompt_len, measurement.prompt_len)
        + _gen_distance(asked.gen_len, max(1, measurement.gen_len))
    )


def _model_distance(asked: Asked, measurement: Measurement) -> float:
    if plain(asked.model) == plain(measurement.model):
        return 0.0
    params = asked.model_params or _measured_params().get(plain(asked.model))
    if params is None:
        return math.inf
    return _OTHER_MODEL + _PER_FACTOR_OF_PARAMS * abs(math.log(params / measurement.model_params))


def _tier_distance(asked: Tier | None, measured: Tier | None) -> float:
    if asked is None or asked == measured:
        return 0.0
    return _TIER_NOT_STATED if measured is None else _OTHER_TIER


def _prompt_distance(asked: int, measured: int) -> float:
    return abs(math.log(asked / measured)) if measured else _NO_PREFILL


def _gen_distance(asked: int, measured: int) -> float:
    if measured == 1 and asked > 1:
        return _NO_DECODE
    return _PER_FACTOR_OF_GEN_LEN * abs(math.log(asked / measured))


def nearest_measurement(
    model: str,
    gpu: str,
    system: str,
    *,
    num_gpus: int = 1,
    batch_size: int,
    prompt_len: int,
    gen_len: int,
    weight_bits: int = 16,
    kv_bits: int = 16,
    weight_tier: Tier | None = None,
    model_params: float | None = None,
) -> tuple[Measurement, dict[str, tuple[object, object]]] | None:
    """The published measurement that is nearest to a prediction, and what differs.

    Candidates have the same GPU, system and number of GPUs, status ok, and are not suspect. Of those within
    `MAX_DISTANCE` the one with the least `distance` wins; of equals one whose time was measured, then one
    whose throughput is printed with more than one digit, then the better trust mark, then the table's order,
    in which a result stands before its ablations.

    Args:
        model: Canonical name of the model.
        gpu: Canonical name of the GPU.
        system: Canonical name, or the tables' name, of the system.
        num_gpus: GPUs of the whole deployment.
        batch_size: Sequences of the whole deployment.
        prompt_len: Tokens per prompt.
        gen_len: Tokens generated per sequence.
        weight_bits: Bits per weight.
        kv_bits: Bits per cached element.
        weight_tier: Slowest tier that holds a part of the weights; None = any.
        model_params: Parameters of the model, to compare it with other models; None = as in `Asked`.

    Returns:
        The measurement and ``{what: (asked, measured)}`` for whatever differs (a weight tier that the source
        does not state is None); or None where no measurement is near.

    Raises:
        SpecError: a size is no positive integer, or the tier is unknown.
    """
    asked = Asked(model, batch_size, prompt_len, gen_len, weight_bits, kv_bits, weight_tier, model_params)
    candidates = _candidates(plain(gpu), plain(canonical_system(system)), num_gpus)
    ranked = [(distance(asked, candidate), _weakness(candidate), candidate) for candidate in candidates]
    near = [ranking for ranking in ranked if ranking[0] <= MAX_DISTANCE]
    if not near:
        return None
    best = min(near)[2]  # _weakness ends with the unique row_id, so two candidates are never compared
    return best, _differences(asked, gpu, best)


def _weakness(measurement: Measurement) -> tuple[bool, bool, int, int]:
    """What decides between rows of equal distance; less is better."""
    return (
        not measurement.latency_was_measured,
        measurement.throughput_digits == 1,
        TRUST_GRADES.index(measurement.trust_grade),
        measurement.row_id,
    )


def _differences(asked: Asked, gpu: str, measured: Measurement) -> dict[str, tuple[object, object]]:
    found: dict[str, tuple[object, object]] = {}
    for name, ours, theirs in (("model", asked.model, measured.model), ("gpu", gpu, measured.gpu)):
        if plain(ours) != plain(theirs):
            found[name] = (ours, theirs)
    if asked.weight_tier not in (None, measured.weight_tier):
        found["weight_tier"] = (asked.weight_tier, measured.weight_tier)
    for name in ("weight_bits", "kv_bits", "batch_size", "prompt_len", "gen_len"):
        ours, theirs = getattr(asked, name), getattr(measured, name)
        if ours != theirs and theirs is not None:
            found[name] = (ours, theirs)
    return found


@lru_cache(maxsize=256)
def _candidates(gpu: str, system: str, num_gpus: int) -> tuple[Measurement, ...]:
    """Rows that may be a neighbour, for plain names. Only these are built, which costs more than reading."""
    return tuple(
        inference_measurement(row)
        for row in shipped_rows("published_inference.csv")
        if row.text("status") == "ok"
        and not row.text("suspect")
        and row.text("gpu_count") == str(num_gpus)
        and plain(canonical_gpu(row.text("gpu"))) == gpu
        and plain(canonical_system(row.text("system"))) == system
    )


@lru_cache(maxsize=1)
def _measured_params() -> dict[str, float]:
    rows = shipped_rows("published_inference.csv")
    return {plain(canonical_model(row.text("model"))): float(row.count("model_params")) for row in rows}
