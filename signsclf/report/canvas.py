"""The style shared by all pictures: colours, type, how labels are written, how files are saved."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from signsclf.files import write_atomic
from signsclf.outputs import mark_png
from signsclf.report.lettering import BASE_FONT
from signsclf.report.mpl import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, VERMILLION, GREEN, PURPLE, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, FAINT = "#222222", "#6E6E6E"

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_DPI = 130


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Apply matplotlib's defaults and our style, ignoring the user's matplotlibrc, which is restored afterwards."""
    import_matplotlib()
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "font.family": [BASE_FONT]})
        # Variation selectors have no glyph of their own. Letters that no font has are never written, see `lettering`.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float, **settings: Any) -> Figure:
    """Create an empty white figure; width and height are in inches, ``settings`` go to matplotlib's Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", **settings)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG, cropped to its content; raises as `write_atomic`."""
    buffer = BytesIO()
    # No Software entry: it names matplotlib's version, and equal pictures should be equal bytes.
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.25, metadata={"Software": None})
    write_atomic(path, mark_png(buffer.getvalue()))
