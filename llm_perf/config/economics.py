"""What GPUs cost and how much power they draw: prices per hour with their dates, and a model of board power."""

import datetime
from functools import cache
from pathlib import Path

from pydantic import Field, model_validator

from llm_perf.config import files
from llm_perf.config.base import NonNegativeQuantity, Spec
from llm_perf.config.names import normalise
from llm_perf.errors import SpecError


class Price(Spec):
    """US dollars per hour of one GPU, with where and when that was read."""

    per_gpu_hour: NonNegativeQuantity
    date: datetime.date
    source: str = Field(min_length=1)


def dollars_per_hour(price: Price | float) -> float:
    """US dollars per hour of one GPU, from a list or as it was given."""
    return price.per_gpu_hour if isinstance(price, Price) else price


class PriceList(Spec):
    """Prices by GPU, under the names of the specs."""

    currency: str = "USD"
    gpus: dict[str, Price]

    def of(self, gpu: str) -> Price | None:
        """The price of a GPU by the name of its spec; None where the list has none."""
        wanted = normalise(gpu)
        return next((price for name, price in self.gpus.items() if normalise(name) == wanted), None)


class Share(Spec):
    """A share of TDP with its plausible range and source."""

    value: float = Field(ge=0, le=1)
    range: tuple[float, float]
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _inside_its_range(self) -> "Share":
        if not self.range[0] <= self.value <= self.range[1]:
            raise ValueError(f"value {self.value} is outside its range {list(self.range)}")
        return self


class PowerModel(Spec):
    """Board power as a share of TDP: idle + memory x busy memory + compute x busy arithmetic, at most 1."""

    idle_share: Share
    memory_share: Share
    compute_share: Share


_FOLDER = "economics"


@cache
def load_prices(file: str | None = None) -> PriceList:
    """The bundled prices, or those of a user's file of the same form.

    Raises:
        SpecError: the file cannot be read or is malformed.
    """
    if file is None:
        bundled = files.package_folder("hardware_specs") / _FOLDER / "prices.yaml"
        text, name = bundled.read_text("utf-8"), bundled.name
    else:
        if not file.strip():
            raise SpecError(f"--prices {file!r} is no file")
        text, name = files.read_text(Path(file)), file
    return files.build(PriceList, files.parse_mapping(text, name), text, name)


@cache
def load_power_model() -> PowerModel:
    """The constants of the power model."""
    file = files.package_folder("hardware_specs") / _FOLDER / "power.yaml"
    text = file.read_text("utf-8")
    return files.build(PowerModel, files.parse_mapping(text, file.name), text, file.name)
