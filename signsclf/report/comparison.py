"""A comparison of models: the figures of each on the same images, as one table, one page and one picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from signsclf import __version__
from signsclf.files import csv_bytes, json_bytes, write_atomic
from signsclf.outputs import COMPARISON_FILES
from signsclf.report.canvas import BLUE, FAINT, new_figure, save, styled
from signsclf.report.html.page import png, render_template
from signsclf.report.lettering import lettered
from signsclf.text import count, short, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What became of one model; what is not known, as after a failure, is None.

    Attributes:
        name: the architecture.
        size: side of its images, in pixels.
        epochs: that it was trained for.
        parameters: number of trainable parameters.
        bytes: of model.onnx.
        seconds: of training, with the evaluation after each epoch, without the export.
        n: number of validation images.
        accuracy, accuracy_low, accuracy_high: accuracy with its 95 % interval, over groups where there are any, 0 to 1.
        top5, macro_f1: 0 to 1.
        error: why there is no model.
        kept: it existed already and was not trained again.
    """

    name: str
    size: int | None = None
    epochs: int | None = None
    parameters: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    n: int | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    top5: float | None = None
    macro_f1: float | None = None
    error: str | None = None
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Models that were trained and evaluated on the same images.

    Attributes:
        source: the last part of the source's path.
        split: in words, how the validation images were held out.
        device: in words, what they ran on.
        results: in the order asked for.
    """

    source: str
    n_classes: int
    n_train: int
    n_valid: int
    split: str
    device: str
    results: tuple[ModelResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the comparison as one JSON object."""
        return asdict(self)

    def caption(self) -> str:
        """Say in one line what all models share."""
        images = f"{self.n_train:,} to train on, {self.n_valid:,} held out {self.split}"
        return f"{visible(self.source)}: {count(self.n_classes, 'class', 'classes')}, {images}; {self.device}"


_HEADER = ("model", "accuracy", "95 % interval", "macro-F1", "seconds", "MB", "parameters", "px", "epochs")


def text_table(comparison: Comparison) -> list[str]:
    """Give the table as lines for a terminal: caption, header, a line per model."""
    rows = [_HEADER, *(_cells(result) for result in comparison.results)]
    widths = [max(len(row[i]) for row in rows if len(row) > 2) for i in range(len(_HEADER))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = [comparison.caption()]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=False))]
        lines.append("  ".join(cells if len(row) > 2 else [cells[0], row[1]]))
    return lines


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write comparison.csv, .json, .png and .html, each atomically.

    Returns:
        The files written.

    Raises:
        SignsclfError: a file cannot be written.
    """
    paths = [folder / name for name in COMPARISON_FILES]
    rows = [list(ModelResult.__dataclass_fields__), *(list(asdict(result).values()) for result in comparison.results)]
    write_atomic(paths[0], csv_bytes(rows))
    write_atomic(paths[1], json_bytes(comparison.to_dict()))
    plot(comparison, paths[2])
    write_atomic(paths[3], page(comparison, paths[2].read_bytes()).encode())
    return paths


@styled()
def plot(comparison: Comparison, path: Path) -> None:
    """Plot accuracy with its interval against seconds of training, and against the bytes of model.onnx, as PNG.

    Models without figures are left out.

    Raises:
        SignsclfError: the file cannot be written.
    """
    results = [result for result in comparison.results if result.accuracy is not None]
    figure = new_figure(12, 5)
    seconds, size = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.06})
    _scatter(seconds, results, [max(result.seconds, 0.1) for result in results], "seconds of training")
    _scatter(size, results, [result.bytes / 1e6 for result in results], "size of model.onnx, MB")
    seconds.set_ylabel(f"accuracy, % of {comparison.n_valid:,} held-out images, with 95 % interval")
    figure.suptitle(short(lettered(comparison.caption()), 120), x=0.125, ha="left", fontsize=10, color=FAINT)
    save(figure, path)


def _scatter(axes: Axes, results: Sequence[ModelResult], xs: Sequence[float], label: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(True)
    axes.margins(x=0.25, y=0.1)
    if not results:
        return
    ys = [100 * result.accuracy for result in results]
    lower = [100 * (result.accuracy - result.accuracy_low) for result in results]
    upper = [100 * (result.accuracy_high - result.accuracy) for result in results]
    axes.errorbar(xs, ys, [lower, upper], fmt="o", color=BLUE, ecolor=FAINT, elinewidth=1, capsize=2)
    if max(xs) < 100 * min(xs):
        # Powers of ten alone would leave a narrow axis with one number, or none.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if len(set(xs)) == 1:
        # Around a single value a logarithmic axis would reach far past its own ends.
        axes.set_xlim(xs[0] / 2.5, xs[0] * 2.5)
    _name_points(axes, [short(result.name, 24) for result in results], xs, ys)


def _name_points(axes: Axes, names: Sequence[str], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Write each name close to its point, over no other name or point; names that fit nowhere are left out."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    # Asked for, the limits become final.
    axes.get_xlim(), axes.get_ylim()
    points = axes.transData.transform(list(zip(xs, ys, strict=True)))
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in points]
    for i in sorted(range(len(names)), key=lambda i: -ys[i]):
        for reach, (right, up) in itertools.product((8, 18, 30, 44, 60, 80), _DIRECTIONS):
            text = axes.annotate(
                names[i],
                (xs[i], ys[i]),
                (right * reach, up * reach),
                textcoords="offset points",
                ha=("right", "center", "left")[right + 1],
                va=("top", "center", "bottom")[up + 1],
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6} if reach > 8 else None,
            )
            text.update_positions(renderer)
            # Of the words alone, without the line that leads to them.
            box = Text.get_window_extent(text, renderer)
            inside = axes.bbox.contains(*box.p0) and axes.bbox.contains(*box.p1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def page(comparison: Comparison, picture: bytes) -> str:
    """Render the table and the picture (PNG) as one HTML page that needs nothing else."""
    names = ", ".join(result.name for result in comparison.results if result.accuracy is not None)
    return render_template(
        "comparison.html",
        title=f"Models compared on {comparison.source}",
        caption=comparison.caption(),
        heads=_HEADER,
        rows=[_cells(result) for result in comparison.results],
        n_valid=comparison.n_valid,
        picture=png(picture, f"Accuracy of {names} against seconds of training and against size"),
        footer=f"Written by signsclf {__version__}. The figures are in comparison.json and comparison.csv too.",
    )


def _cells(result: ModelResult) -> tuple[str, ...]:
    """Give the cells of a model's row, or its name and what went wrong."""
    if result.error is not None:
        return result.name, f"failed: {result.error}"
    return (
        result.name + (" (kept)" if result.kept else ""),
        f"{100 * result.accuracy:.2f} %",
        f"{100 * result.accuracy_low:.2f} to {100 * result.accuracy_high:.2f}",
        f"{100 * result.macro_f1:.2f} %",
        f"{result.seconds:,.1f}",
        f"{result.bytes / 1e6:.2f}",
        f"{result.parameters:,}",
        str(result.size),
        str(result.epochs),
    )
