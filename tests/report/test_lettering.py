from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager

from signsclf.metrics.classification import confusion
from signsclf.report import lettering, plots
from signsclf.report.canvas import styled
from signsclf.report.lettering import class_names, lettered

NAMES = ["stop", "停止", "前方優先", "한국", "قف", "หยุด", "रुको", "🚸 children"]


@pytest.fixture(autouse=True)
def _nothing_remembered():
    yield
    for cached in (lettering._fonts_for, lettering._charmap, lettering._warn_lacking):
        cached.cache_clear()


@pytest.fixture
def said(caplog) -> pytest.LogCaptureFixture:
    lettering._warn_lacking.cache_clear()
    lettering._fonts_for.cache_clear()
    caplog.set_level(logging.WARNING, "signsclf")
    return caplog


def entry(name: str, file: str | Path = "none.ttf", weight: int = 400, style: str = "normal") -> SimpleNamespace:
    return SimpleNamespace(name=name, fname=str(file), weight=weight, style=style)


def font(path: Path, name: str, letters: str, has_outlines: bool = True) -> Path:
    """A font of squares, each letter's another; its glyphs are empty where it is not ``has_outlines``."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def square(side: int):
        pen = TTGlyphPen(None)
        if side:
            pen.moveTo((0, 0))
            for point in ((0, side), (side, side), (side, 0)):
                pen.lineTo(point)
            pen.closePath()
        return pen.glyph()

    glyphs = [".notdef", *(f"g{i}" for i in range(len(letters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"g{i}" for i, letter in enumerate(letters)})
    builder.setupGlyf({glyph: square(400 + 40 * i if has_outlines else 0) for i, glyph in enumerate(glyphs)})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(lettering, "installed_fonts", lambda: [])


@pytest.fixture
def two_fonts(monkeypatch, tmp_path):
    """Fonts that matplotlib has for the time of the test: of hanzi, of pictographs, and one that draws nothing."""
    letters = "停止前方優先"
    made = [
        font(tmp_path / "hanzi.ttf", "Hanzi of a Test", letters),
        font(tmp_path / "smileys.ttf", "Pictographs of a Test", "🚸"),
        font(tmp_path / "empty.ttf", "An Empty Test", letters + "🚸한국", has_outlines=False),
    ]
    manager = font_manager.fontManager
    before = list(manager.ttflist)
    for path in made:
        manager.addfont(path)
    added = manager.ttflist[len(before) :]
    monkeypatch.setattr(lettering, "installed_fonts", lambda: added)
    yield
    manager.ttflist[:] = before


def test_any_font_that_has_the_letters_is_taken(two_fonts, said):
    with styled():
        assert class_names(NAMES[:3]) == NAMES[:3]
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "Hanzi of a Test"]
        assert class_names(["stop", "🚸 children"]) == ["stop", "🚸 children"]
    assert not said.records


def test_what_no_font_has_is_numbered_and_said_in_one_line(two_fonts, said):
    with styled():
        for _ in range(3):
            assert class_names(NAMES) == [
                *NAMES[:3], "class 3", "قف", "class 5", "class 6", "🚸 children",
            ]  # fmt: skip
    (record,) = said.records
    line = record.getMessage()
    assert "3 class names" in line and "한국" in line and "class index" in line and "\n" not in line


def test_without_any_font_names_stay_apart_and_parts_that_can_be_read_stay(no_fonts, said):
    with styled():
        names = class_names([*NAMES, "🚷 children", "★ é ß €"])
    assert names[1] == "class 1"
    assert names[7:] == ["class 7: children", "class 8: children", "★ é ß €"]
    assert len(set(names)) == len(names)
    assert len(said.records) == 1


def test_other_texts_are_escaped(no_fonts):
    with styled():
        assert lettered("photos/停.png\x1b") == "photos/\\u505c.png\\x1b"
        assert lettered("plain é") == "plain é"


def test_fonts_of_boxes_and_such_as_cannot_be_read_are_passed_over(monkeypatch, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts = [
        entry(".LastResort"),
        entry("Last Resort High-Efficiency"),
        entry("Adobe Blank"),
        entry("Odd Sans", tmp_path / "broken.ttf"),
    ]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist, *fonts])
    assert not {font.name for font in fonts[:3]} & {font.name for font in lettering.installed_fonts()}
    assert lettering._charmap(str(tmp_path / "broken.ttf")) == frozenset()


def test_regular_upright_fonts_without_serifs_come_first():
    order = [
        entry("Noto Sans CJK JP"), entry("Some Sans"), entry("Noto Serif"), entry("Serif"),
        entry("Noto Sans", weight=700), entry("Noto Sans", style="italic"),
    ]  # fmt: skip
    shuffled = [order[i] for i in (5, 2, 0, 4, 1, 3)]
    assert sorted(shuffled, key=lettering._preference) == order


@pytest.mark.parametrize("fonts", ["no_fonts", "two_fonts"])
def test_pictures_have_no_boxes_and_give_no_warnings(fonts, request, tmp_path, recwarn):
    request.getfixturevalue(fonts)
    each = np.arange(len(NAMES))
    plots.confusion_matrix(confusion(each, each, len(NAMES)), NAMES, tmp_path / "confusion.png")
    plots.class_counts(NAMES, [1] * len(NAMES), tmp_path / "counts.png")
    images = np.zeros((len(NAMES), 8, 8, 3), np.uint8)
    plots.batch(images, NAMES, tmp_path / "batch.png", NAMES)
    mistakes = [
        plots.Mistake(image=image, true=true, predicted=predicted, confidence=0.5, name="写真/停.png")
        for image, true, predicted in zip(images, NAMES, NAMES[::-1], strict=True)
    ]
    plots.worst_mistakes(mistakes, tmp_path / "mistakes.png", classes=NAMES)
    assert not [str(warning.message) for warning in recwarn if "lyph" in str(warning.message)]
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_every_written_letter_is_had_by_a_font_in_use(no_fonts, tmp_path, monkeypatch):
    """Boxes are what matplotlib warns of; here nothing is filtered."""
    import warnings

    monkeypatch.setattr(warnings, "filterwarnings", lambda *_, **__: warnings.simplefilter("error"))
    plots.class_counts(NAMES, [1] * len(NAMES), tmp_path / "counts.png")
    plots.batch(np.zeros((len(NAMES), 8, 8, 3), np.uint8), NAMES, tmp_path / "batch.png", NAMES)
