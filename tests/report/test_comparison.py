from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from signsclf.errors import SignsclfError
from signsclf.report.comparison import Comparison, ModelResult, plot, text_table, write_comparison

FIGURES = ("size", "epochs", "parameters", "bytes", "seconds", "n")
SHARES = ("accuracy", "accuracy_low", "accuracy_high", "top5", "macro_f1")


def result(name: str, figures: tuple[float, ...], shares: tuple[float, ...], kept: bool = False) -> ModelResult:
    return ModelResult(
        name=name, kept=kept, **dict(zip(FIGURES, figures, strict=True)), **dict(zip(SHARES, shares, strict=True))
    )


LOW = result("linear-regression", (32, 1, 9_219, 39_000, 0.0, 200), (0.5, 0.43, 0.57, 0.9, 0.4))
HIGH = result("signnet", (32, 6, 1_644_323, 6_590_000, 83.25, 200), (0.985, 0.957, 0.995, 1.0, 0.98), kept=True)
BROKEN = ModelResult(name="alexnet", error="--size 32: <b>alexnet</b> cannot run at it")


def compared(*results: ModelResult, source: str = "signs") -> Comparison:
    return Comparison(
        source=source,
        n_classes=3,
        n_train=800,
        n_valid=200,
        split="by whole groups, seed 0",
        device="cpu, 1 threads",
        results=results,
    )


class Page(HTMLParser):
    """Cells by row, and every address that the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.within = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.within = True

    def handle_endtag(self, tag):
        self.within = self.within and tag not in ("td", "th")

    def handle_data(self, data):
        if self.within:
            self.rows[-1][-1] += data


def test_the_terminal_has_a_line_per_model_with_n_and_interval():
    caption, header, low, high, broken = text_table(compared(LOW, HIGH, BROKEN))
    assert "800 to train on, 200 held out by whole groups, seed 0" in caption
    assert header.split()[:3] == ["model", "accuracy", "95"]
    assert "50.00 %" in low
    assert "43.00 to 57.00" in low
    assert "signnet (kept)" in high
    assert "98.50 %" in high
    assert len({len(line) for line in (header, low, high)}) == 1
    assert "failed: --size 32" in broken


def test_the_files_say_the_same(tmp_path):
    written = write_comparison(tmp_path, compared(LOW, HIGH, BROKEN))
    assert [path.name for path in written] == ["comparison.csv", "comparison.json", "comparison.png", "comparison.html"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    values = json.loads((tmp_path / "comparison.json").read_text())
    assert values == json.loads(json.dumps(compared(LOW, HIGH, BROKEN).to_dict()))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert [row["name"] for row in rows] == ["linear-regression", "signnet", "alexnet"]
    assert [row["accuracy"] for row in rows] == ["0.5", "0.985", ""]
    assert rows[2]["error"] == BROKEN.error
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.width > picture.height > 300


def test_the_page_needs_nothing_from_elsewhere_and_escapes(tmp_path):
    write_comparison(tmp_path, compared(LOW, BROKEN, source="<script>x</script>"))
    text = (tmp_path / "comparison.html").read_text()
    assert "default-src 'none'" in text
    page = Page(text)
    assert [row[0] for row in page.rows] == ["model", "linear-regression", "alexnet"]
    assert page.rows[2][1] == f"failed: {BROKEN.error}"
    assert [address.partition(",")[0] for address in page.addresses] == ["data:", "data:image/png;base64"]
    assert not page.tags & {"script", "b"}


@pytest.mark.parametrize("results", [(), (BROKEN,), (LOW,), (LOW,) * 12])
def test_few_many_and_no_figures_are_drawn(tmp_path, results):
    assert len(write_comparison(tmp_path, compared(*results))) == 4


def test_a_folder_that_is_not_there_is_an_error_of_one_line(tmp_path):
    with pytest.raises(SignsclfError) as caught:
        write_comparison(tmp_path / "nowhere", compared(LOW))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seconds", [(0.0, 0.0), (31.0, 83.25), (1.0, 3600.0)])
def test_axes_end_where_their_plots_do_and_have_plain_numbers(monkeypatch, tmp_path, seconds):
    figures = []
    monkeypatch.setattr("signsclf.report.comparison.save", lambda figure, _: figures.append(figure))
    plot(compared(replace(LOW, seconds=seconds[0]), replace(HIGH, seconds=seconds[1])), tmp_path / "comparison.png")
    axes = figures[0].axes[0]
    figures[0].canvas.draw()
    line = axes.spines["bottom"].get_window_extent()
    assert line.x0 == pytest.approx(axes.bbox.x0, abs=3)
    assert line.x1 == pytest.approx(axes.bbox.x1, abs=3)
    low, high = axes.get_xlim()
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    told = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
    numbers = [float(text) for text in told if text]
    assert len(numbers) >= 2
