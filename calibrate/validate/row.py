"""One published run beside its prediction, whatever kind of run it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from calibrate.evidence.published import Measurement, TrainingMeasurement


def unusable(measurement: Measurement | TrainingMeasurement, quantity: object) -> str | None:
    """Why a row is no measurement to compare with; ``quantity`` is what of it would be compared."""
    if measurement.status != "ok":
        return f"status {measurement.status}"
    if measurement.suspect:
        return "suspect: contradicts other rows or itself"
    return "no quantity in the project's sense" if quantity is None else None


@dataclass(frozen=True)
class Run:
    """What a reader needs to know a run by. What a kind of run does not have is None.

    Attributes:
        row_id: Number of the row, unique in its table.
        table: Which table of `calibrate.measurements`.
        system: Canonical name of the system, or the training framework.
        model: Name of the model.
        gpu: GPU as the source names it.
        num_gpus: GPUs in all.
        batch_size: Sequences of the whole deployment (inference) or per optimizer step (training).
        prompt_len: Tokens per prompt.
        gen_len: Tokens generated per sequence.
        seq_len: Tokens per sequence in training.
        weight_tier: Slowest tier that holds a part of the weights.
        source: Where the row was read.
        trust: Mark and reason.
    """

    row_id: int
    table: Literal["inference", "training"]
    system: str
    model: str
    gpu: str
    num_gpus: int
    batch_size: int | None
    prompt_len: int | None
    gen_len: int | None
    seq_len: int | None
    weight_tier: str | None
    source: str
    trust: str


@dataclass(frozen=True)
class Interval:
    """Where the measured value lies with probability ``level``, in the unit of the row's main quantity."""

    low: float
    high: float
    level: float

    def as_dict(self) -> dict[str, float]:
        """As the JSON has it."""
        return {"low": self.low, "high": self.high, "level": self.level}


@dataclass(frozen=True)
class LeftOut:
    """A row's main quantity as predicted by constants that were refitted without its group.

    Attributes:
        leave_out: What a group is: ``model`` (``family`` in training), since a prediction knows the row's GPU.
        group: The row's group.
        predicted: The prediction.
        interval: As wide as residuals of other groups say, which were left out likewise; None without enough of them.
    """

    leave_out: str
    group: str
    predicted: float
    interval: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """As the JSON has it."""
        interval = None if self.interval is None else self.interval.as_dict()
        return {
            "leave_out": self.leave_out,
            "group": self.group,
            "predicted": self.predicted,
            "interval": interval,
        }


@dataclass(frozen=True)
class Compared:
    """One published run and its prediction.

    Attributes:
        run: The run.
        accuracy_class: Its class; None for Petals, whose clients the classes do not know.
        quantity: Name of the main quantity.
        measured: Its value.
        predicted: The prediction; None where the run was refused.
        reason: Why it was refused; None where it was predicted.
        rounding: Half the interval that the printed value stands for, as a fraction; 0 with more than one digit.
        others: Further quantities: name -> (measured, predicted).
        baselines: What simpler predictors say of the main quantity: name -> prediction or None.
        interval: Prediction interval of the main quantity, where a profile gives one.
        left_out: The row without its group, where it was refitted so and no profile was applied.
    """

    run: Run
    accuracy_class: str | None
    quantity: str
    measured: float
    predicted: float | None
    reason: str | None
    rounding: float = 0.0
    others: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    baselines: Mapping[str, float | None] = field(default_factory=dict)
    interval: Interval | None = None
    left_out: LeftOut | None = None

    @property
    def bound(self) -> float:
        """The value to compare with: the end of the rounding interval that is nearest to the prediction."""
        if self.predicted is None or not self.rounding:
            return self.measured
        low, high = self.measured * (1 - self.rounding), self.measured * (1 + self.rounding)
        return min(max(self.predicted, low), high)

    @property
    def error(self) -> float | None:
        """Signed fraction of the measured value."""
        return None if self.predicted is None else (self.predicted - self.bound) / self.bound

    @property
    def ratio(self) -> float | None:
        """max(predicted / measured, measured / predicted)."""
        if self.predicted is None:
            return None
        return max(self.predicted / self.bound, self.bound / self.predicted)

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the prediction interval; None without one.

        Without a profile that is the interval around the prediction that never saw the row's group: around the shipped
        one, which knows the row, it would flatter.
        """
        interval = self.interval or (None if self.left_out is None else self.left_out.interval)
        if interval is None:
            return None
        low, high = self.measured * (1 - self.rounding), self.measured * (1 + self.rounding)
        return interval.low <= high and low <= interval.high

    def by(self, baseline: str) -> Compared:
        """The same run as a simpler predictor sees it."""
        predicted = self.baselines.get(baseline)
        reason = None if predicted is not None else f"{baseline} does not cover it"
        return replace(self, predicted=predicted, reason=reason, others={}, interval=None, left_out=None)

    def as_dict(self) -> dict[str, Any]:
        """One row of the JSON."""
        run = self.run
        return {
            "row_id": run.row_id,
            "table": run.table,
            "class": self.accuracy_class,
            "system": run.system,
            "model": run.model,
            "gpu": run.gpu,
            "num_gpus": run.num_gpus,
            "batch_size": run.batch_size,
            "prompt_len": run.prompt_len,
            "gen_len": run.gen_len,
            "seq_len": run.seq_len,
            "weight_tier": run.weight_tier,
            "quantity": self.quantity,
            "measured": self.measured,
            "predicted": self.predicted,
            "error": self.error,
            "ratio": self.ratio,
            "one_digit": self.rounding > 0,
            "interval": None if self.interval is None else self.interval.as_dict(),
            "left_out": None if self.left_out is None else self.left_out.as_dict(),
            "reason": self.reason,
            "quantities": {
                name: {"measured": ours, "predicted": theirs, "error": (theirs - ours) / ours}
                for name, (ours, theirs) in self.others.items()
            },
            "baselines": dict(self.baselines),
            "source": run.source,
            "trust": run.trust,
        }
