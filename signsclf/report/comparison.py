"""The ladder of models: each rung's figures on the same images, as one table, one page and one picture."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from signsclf.files import csv_bytes, json_bytes, write_atomic
from signsclf.outputs import COMPARISON_FILES, GENERATOR
from signsclf.report.canvas import BLUE, FAINT, new_figure, save, styled
from signsclf.report.lettering import lettered
from signsclf.text import count, short, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ModelResult:
    """One model's place on the ladder; what is not known, as after a failure, is None.

    Attributes:
        name: the architecture.
        size: side of its images, in pixels.
        epochs: that it was trained for.
        parameters: numbers that training fits.
        bytes: of model.onnx.
        seconds: of training, judging each epoch included, export not.
        n: validation images judged.
        accuracy, accuracy_low, accuracy_high: share right with its 95 % interval (Wilson), 0 to 1.
        top5, macro_f1: 0 to 1.
        error: why there is no model.
        kept: it was there already, and not trained anew.
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


@dataclass(frozen=True)
class Comparison:
    """Rungs that were trained and judged on the same images.

    Attributes:
        source: the last part of the source's path.
        split: in words, how the validation images were held out.
        device: in words, what it ran on.
        rungs: in the order asked for.
    """

    source: str
    n_classes: int
    n_train: int
    n_valid: int
    split: str
    device: str
    results: tuple[ModelResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """The ladder as one JSON object."""
        return asdict(self)

    def caption(self) -> str:
        """One line of what all rungs share."""
        images = f"{self.n_train:,} to train on, {self.n_valid:,} held out {self.split}"
        return f"{visible(self.source)}: {count(self.n_classes, 'class', 'classes')}, {images}; {self.device}"


_HEADER = ("model", "accuracy", "95 % interval", "macro-F1", "seconds", "MB", "parameters", "px", "epochs")


def text_table(ladder: Comparison) -> list[str]:
    """The table as lines for a terminal: caption, header, a line a rung."""
    rows = [_HEADER, *(_cells(result) for result in ladder.results)]
    widths = [max(len(row[i]) for row in rows if len(row) > 2) for i in range(len(_HEADER))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = [ladder.caption()]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=False))]
        lines.append("  ".join(cells if len(row) > 2 else [cells[0], row[1]]))
    return lines


def write_comparison(folder: Path, ladder: Comparison) -> list[Path]:
    """Writes ladder.csv, ladder.json, ladder.png and ladder.html, each whole or not at all.

    Returns:
        The files written.

    Raises:
        SignsclfError: a file cannot be written.
    """
    paths = [folder / name for name in COMPARISON_FILES]
    rows = [list(ModelResult.__dataclass_fields__), *(list(asdict(result).values()) for result in ladder.results)]
    write_atomic(paths[0], csv_bytes(rows))
    write_atomic(paths[1], json_bytes(ladder.to_dict()))
    plot(ladder, paths[2])
    write_atomic(paths[3], page(ladder, paths[2].read_bytes()).encode("utf-8", "backslashreplace"))
    return paths


@styled()
def plot(ladder: Comparison, path: Path) -> None:
    """Accuracy with its interval against seconds of training, and against the bytes of model.onnx, as PNG.

    Rungs without figures are left out.

    Raises:
        SignsclfError: the file cannot be written.
    """
    results = [result for result in ladder.results if result.accuracy is not None]
    figure = new_figure(12, 5)
    seconds, size = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.06})
    _scatter(seconds, results, [max(result.seconds, 0.1) for result in results], "seconds of training")
    _scatter(size, results, [result.bytes / 1e6 for result in results], "size of model.onnx, MB")
    seconds.set_ylabel(f"accuracy, % of {ladder.n_valid:,} held-out images, with 95 % interval")
    figure.suptitle(short(lettered(ladder.caption()), 120), x=0.125, ha="left", fontsize=10, color=FAINT)
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
    below = [100 * (result.accuracy - result.accuracy_low) for result in results]
    above = [100 * (result.accuracy_high - result.accuracy) for result in results]
    axes.errorbar(xs, ys, [below, above], fmt="o", color=BLUE, ecolor=FAINT, elinewidth=1, capsize=2)
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
    """Writes each name as near to its point as it covers no other name and no point; none where there is no room."""
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

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8886; white-space: nowrap; }
th:first-child, td:first-child, td.error { text-align: left; }
td.error { white-space: normal; color: #c4380d; }
img { width: 100%; min-width: 42rem; height: auto; background: white; border-radius: 6px; }
@media (prefers-color-scheme: dark) { td.error { color: #ff8a5c; } }
@media print { body { margin: 0; max-width: none; } }
"""


def page(ladder: Comparison, picture: bytes) -> str:
    """The table and the picture (PNG) as one HTML page that needs nothing else."""
    rows = []
    for result in ladder.results:
        cells = [escape(visible(cell)) for cell in _cells(result)]
        if result.error is None:
            rows.append("".join(f"<td>{cell}</td>" for cell in cells))
        else:
            rows.append(f'<td>{cells[0]}</td><td class="error" colspan="{len(_HEADER) - 1}">{cells[1]}</td>')
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEADER)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    names = ", ".join(result.name for result in ladder.results if result.accuracy is not None)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{GENERATOR}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The ladder of models</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>The ladder of models</h1>
<p>{escape(ladder.caption())}</p>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p>Every rung is trained on the same images and judged on the same {ladder.n_valid:,} held-out ones, by its exported
file. Its best epoch was chosen on them. Seconds are those of training; MB those of model.onnx.</p>
<div class="wide"><img alt="Accuracy of {escape(names)} against seconds of training and against size"
src="data:image/png;base64,{base64.b64encode(picture).decode()}"></div>
</body>
</html>
"""


def _cells(result: ModelResult) -> tuple[str, ...]:
    """The cells of a rung's row, or its name and what went wrong."""
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
