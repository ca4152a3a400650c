"""What all pictures of matplotlib share: their frame, their legend, and files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llm_perf.config import files
from llm_perf.errors import MissingExtraError, OutputError, SpecError

BAND: Final = "#56B4E9"
DPI: Final = 150
FORMATS: Final = ("png", "svg")


def require_matplotlib() -> None:
    """Refuse a picture that cannot be drawn before anything is computed.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("plot", "drawing a plot") from None
    mpl.use("Agg")
    # Text stays text, and the same figure is the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "llm-perf", "font.size": 10})


def check_plot(file: str) -> None:
    """Refuse a ``--plot`` FILE that cannot be drawn before anything is computed.

    Raises:
        SpecError: the name ends in neither .png nor .svg.
        MissingExtraError: matplotlib is not installed.
        OutputError: its folder does not exist.
    """
    path = Path(file)
    if path.suffix.lower()[1:] not in FORMATS or not path.stem:
        raise SpecError(
            f"--plot {file!r}: the name must end in {' or '.join(f'.{kind}' for kind in FORMATS)}"
        )
    require_matplotlib()
    if not path.parent.is_dir():
        raise OutputError(f"--plot {file!r}: there is no folder {str(path.parent)!r}")


def write_figure(figure: Any, file: str) -> Path:
    """Write a figure into one PNG or SVG file, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(file)
    target = files.behind_links(path)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        _save(figure, part, path.suffix[1:].lower())
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"--plot {file!r}: {error.strerror or error}") from None
    return path


def _save(figure: Any, part: Path, kind: str) -> None:
    # Without a date, the same figure is the same file.
    figure.savefig(part, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)


def new_figure(width: float, height: float) -> Any:
    """A figure whose parts make room for one another."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Any) -> None:
    """A light grid behind the data, no frame above and right of it."""
    axes.grid(visible=True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Any, columns: int) -> None:
    """One legend for the whole figure, outside the data; each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False,
            fontsize=8,
        )  # fmt: skip


def write_figures(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG into a folder, which is made where there is none: all files or none.

    Raises:
        OutputError: one of them cannot be written.
    """
    parts: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for kind in FORMATS:
                part = folder / f"{name}.{kind}.{os.getpid()}.part"
                parts[part] = files.behind_links(folder / f"{name}.{kind}")
                _save(figure, part, kind)
        for part, target in parts.items():
            part.replace(target)
    except OSError as error:
        for part in parts:
            part.unlink(missing_ok=True)
        raise OutputError(f"--plot {str(folder)!r}: {error.strerror or error}") from None
    return list(parts.values())


def short_model(name: str) -> str:
    """A model's name without its organisation."""
    return name.rpartition("/")[2]


def first_of(shown: int, there_are: int, what: str = "runs") -> str:
    """What a title adds where a figure does not show everything; nothing where it does."""
    return f" (the first {shown} of {there_are} {what})" if shown < there_are else ""
