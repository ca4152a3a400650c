"""Numbers as people read them. GiB and GB only here: everything before this is in bytes and seconds."""

from __future__ import annotations

import math

GIB = 2**30
_YEAR_S = 365 * 24 * 3600


def gib(value_bytes: float) -> str:
    """Bytes in GiB, two decimals below ten; three digits of what no machine has."""
    value = value_bytes / GIB
    if abs(value) >= 1e7:
        return f"{value:.3g} GiB"
    return f"{value:,.2f} GiB" if abs(value) < 10 else f"{value:,.1f} GiB"


def seconds(value_s: float) -> str:
    """Seconds with three significant digits, in µs, ms, s, or hours beside long times (beyond a year seconds alone)."""
    if value_s >= _YEAR_S:
        return f"{value_s:.3g} s"
    if 0 <= value_s < 5e-10:  # below a clock tick of any GPU: rounding, no time
        return "0 µs"
    if value_s < 1e-3:
        return f"{value_s * 1e6:.3g} µs"
    if value_s < 1:
        return f"{value_s * 1e3:.3g} ms"
    if value_s < 1000:
        return f"{value_s:.3g} s"
    if value_s < 7200:
        return f"{value_s:,.0f} s ({value_s / 60:,.0f} min)"
    return f"{value_s:,.0f} s ({value_s / 3600:,.1f} h)"


def brief(value_s: float) -> str:
    """Seconds as `seconds` writes them, of long times without minutes or hours."""
    return seconds(value_s).split(" (")[0]


def days(value_days: float) -> str:
    """Days with one decimal; short runs with two digits, and below a tenth of a day in seconds or hours."""
    if value_days < 0.1:
        return brief(value_days * 86400)
    return f"{value_days:,.1f} days" if value_days >= 1 else f"{value_days:.2g} days"


def rate(tokens_per_s: float) -> str:
    """Tokens per second with three significant digits."""
    text = f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.3g}"
    return f"{text} token/s"


def tokens(number: float) -> str:
    """Tokens of a whole run as people write them: 1e9, 2.5e12."""
    text = f"{number:.4g}".replace("e+0", "e").replace("e+", "e")
    return f"{text} tokens"


def cut(text: str, width: int) -> str:
    """A text of at most so many characters, with an ellipsis where it goes on."""
    return text if len(text) <= width else text[: width - 1] + "…"


def three_digits(value: float) -> str:
    """Three significant digits; a dash where there is no such number."""
    return f"{value:,.3g}" if math.isfinite(value) else "-"


def percent(fraction: float) -> str:
    """A signed fraction in percent, one decimal."""
    return f"{fraction * 100:+.1f} %"


def count(value: float) -> str:
    """A count with thousands separators."""
    return f"{value:,.0f}"


def some(value: float) -> str:
    """A count where there is something: three digits below a hundred, so that nothing of it is printed as none."""
    return count(value) if value >= 100 or value == round(value) else f"{value:.3g}"
