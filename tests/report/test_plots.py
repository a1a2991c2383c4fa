from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from signsclf.errors import SignsclfError
from signsclf.metrics.classification import Confusion, confusion
from signsclf.report import plots, sheets

ODD_LABELS = [
    "Übergrößenträger",
    "$x_1^2$",
    "a_b_{c",
    "$\\nosuch{$",
    "line\nbreak\x00",
    "no UTF-8 \udcff",
    "道路標識",
    "long " * 60,
    "",
    "_hidden",
]
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
HISTORY = [
    {"epoch": 0, "train_loss": 2.0, "valid_loss": 1.5, "accuracy": 0.4, "macro_f1": 0.3, "lr": 0.1},
    {"epoch": 1, "train_loss": 1.0, "valid_loss": None, "accuracy": None, "macro_f1": math.nan},
    {"epoch": 2, "train_loss": 0.5, "valid_loss": 0.6, "accuracy": 0.8, "macro_f1": 0.7},
]
LRS = np.geomspace(1e-6, 1, 30)


def counted(matrix: np.ndarray) -> Confusion:
    targets, predicted = (np.repeat(axis, matrix.ravel()) for axis in np.indices(matrix.shape).reshape(2, -1))
    return confusion(targets, predicted, len(matrix))


DRAW = {
    "confusion_matrix": lambda labels, path: plots.confusion_matrix(
        counted(np.arange(len(labels) ** 2).reshape(len(labels), -1)), labels, path
    ),
    "worst_mistakes": lambda labels, path: plots.worst_mistakes(
        [mistake(label, other, 0.5, label) for label, other in zip(labels, labels[::-1], strict=True)], path
    ),
    "batch": lambda labels, path: plots.batch(np.stack([IMAGE] * len(labels)), labels, path),
    "lr_find": lambda labels, path: plots.lr_find(LRS, 1 / (1 + LRS), dict.fromkeys(labels, 1e-3), path),
    "class_counts": lambda labels, path: plots.class_counts(labels, range(len(labels)), path),
    "training_curves": lambda labels, path: plots.training_curves(HISTORY, path),
}


def mistake(true: str, predicted: str, confidence: float, name: str | None = None) -> plots.Mistake:
    return plots.Mistake(image=IMAGE, true=true, predicted=predicted, confidence=confidence, name=name)


@pytest.fixture
def texts(monkeypatch):
    """All text of every picture that is rendered, instead of recognising it in the pixels."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    found = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        found.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())

    monkeypatch.setattr(Figure, "savefig", remember)
    return found


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize("name", DRAW)
def test_labels_are_never_markup_and_any_text_is_rendered(name, tmp_path, recwarn):
    DRAW[name](ODD_LABELS, tmp_path / "out.png")
    width, height = size(tmp_path / "out.png")
    assert 200 < width < 3000
    assert 200 < height < 3000
    assert not [str(w.message) for w in recwarn if "matplotlib" in w.filename]


@pytest.mark.parametrize("name", DRAW)
def test_same_input_same_bytes_whatever_the_users_settings(name, tmp_path):
    digests = set()
    for settings in ({}, {"text.usetex": True, "font.size": 30, "savefig.dpi": 20, "axes.facecolor": "red"}):
        with matplotlib.rc_context(settings):
            DRAW[name](["a", "b"], tmp_path / "out.png")
            assert {key: matplotlib.rcParams[key] for key in settings} == settings
        digests.add(hashlib.sha256((tmp_path / "out.png").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("name", DRAW)
def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(name, tmp_path):
    (tmp_path / "out.png").mkdir()
    with pytest.raises(SignsclfError, match=r"out\.png: cannot be written") as error:
        DRAW[name](["a", "b"], tmp_path / "out.png")
    assert "\n" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.png"]


def test_no_window_and_no_pyplot(tmp_path):
    code = (
        "import sys; from signsclf.report import plots; assert 'matplotlib' not in sys.modules;"
        f"plots.class_counts(['a', 'b'], [1, 2], {str(tmp_path / 'out.png')!r});"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


class TestConfusionMatrix:
    @pytest.mark.parametrize("n", [1, 2, 3, 10, 43])
    def test_shows_every_count_label_total_and_recall(self, n, tmp_path, texts):
        matrix = np.zeros((n, n), dtype=np.int64)
        matrix[np.arange(n), np.arange(n)] = 97
        matrix[0, n - 1] += 3
        labels = [f"Label number {i}" for i in range(n)]
        plots.confusion_matrix(counted(matrix), labels, tmp_path / "out.png")
        assert texts.count("97") == (n if n > 1 else 0)
        assert "0" not in texts
        if n > 1:
            assert {"3", "97.0%", f"{97 * n + 3:,} images, 3 mistakes"} <= set(texts)
            assert texts.count("100.0%") == n - 1
        for i, label in enumerate(labels):
            assert label in texts
            assert f"{label}  ({matrix[i].sum()})" in texts

    def test_43_classes_have_room_for_their_counts(self, tmp_path):
        """Cells of less than some 30 pixels could not hold three digits that can be read."""
        plots.confusion_matrix(
            counted(np.eye(43, dtype=int) * 720), [f"Sign {i}" for i in range(43)], tmp_path / "out.png"
        )
        assert min(size(tmp_path / "out.png")) > 43 * 30

    def test_right_is_blue_wrong_orange_and_a_single_mistake_is_seen(self, tmp_path):
        matrix = np.array([[500, 0], [1, 500]])
        plots.confusion_matrix(counted(matrix), ["a", "b"], tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as image:
            red, _, blue = np.asarray(image.convert("RGB")).astype(int).transpose(2, 0, 1)
        cell = (0.8 * 0.9 * 130) ** 2
        assert (blue - red > 80).sum() > 1.5 * cell
        assert (red - blue > 40).sum() > 0.8 * cell

    def test_of_many_classes_the_most_confused_pairs_are_shown(self, tmp_path, texts):
        matrix = np.eye(1000, dtype=np.int64) * 50
        matrix[700, 3] = 9
        matrix[np.arange(1, 900, 2), np.arange(0, 900, 2)] += 1
        labels = [f"n{i:04d}" for i in range(1000)]
        plots.confusion_matrix(counted(matrix), labels, tmp_path / "out.png")
        title = next(text for text in texts if "most confused" in text)
        assert f"The {plots.SHOWN_MATRIX_CLASSES} most confused of 1,000 classes" in title
        assert "459 mistakes" in title
        assert {"n0003", "n0700", "9"} <= set(texts)
        assert "n0999" not in texts
        assert len({text for text in texts if text in labels}) == plots.SHOWN_MATRIX_CLASSES

    def test_refuses_a_matrix_of_another_shape(self, tmp_path):
        with pytest.raises(ValueError, match="2 names for 3 classes"):
            plots.confusion_matrix(counted(np.eye(3, dtype=int)), ["a", "b"], tmp_path / "out.png")


class TestNearDuplicates:
    def test_a_row_for_each_group_and_no_more_images_than_fit(self, tmp_path, texts):
        groups = [[f"{g}/{i}.png" for i in range(n)] for g, n in enumerate((2, 9, *[2] * 30))]
        opened: list[str] = []
        sheets.near_duplicates(groups, lambda name: opened.append(name) or IMAGE, tmp_path / "out.png")
        assert len(opened) == sheets.MAX_OF_GROUP + 2 * (sheets.MAX_GROUPS - 1)
        assert f"{sheets.MAX_GROUPS} of 32 groups of near-duplicates, a row each" in texts
        assert {"0/0.png", "0/1.png", "1/0.png", "1/5.png (and 3 more)"} <= set(texts)

    def test_none_are_said_to_be_none(self, tmp_path, texts):
        sheets.near_duplicates([], lambda name: IMAGE, tmp_path / "out.png")
        assert "no near-duplicates" in texts


class TestWorstMistakes:
    def test_the_most_confident_come_first_and_no_more_than_asked(self, tmp_path, texts):
        mistakes = [mistake(f"t{i}", f"p{i}", confidence) for i, confidence in enumerate((0.5, 0.9, 0.7))]
        plots.worst_mistakes(mistakes, tmp_path / "out.png", n_shown=2)
        shown = [text for text in texts if text.startswith(("true", "predicted", "confidence"))]
        assert shown == [
            "true: t1",
            "predicted: p1",
            "confidence: 90.0%",
            "true: t2",
            "predicted: p2",
            "confidence: 70.0%",
        ]
        assert "2 of 3 mistakes, highest confidence first" in texts

    def test_without_mistakes_the_picture_says_so(self, tmp_path, texts):
        plots.worst_mistakes([], tmp_path / "out.png")
        assert "no mistakes" in texts
        assert size(tmp_path / "out.png") > (100, 50)

    def test_long_labels_end_in_an_ellipsis_and_long_paths_begin_with_one(self, tmp_path, texts):
        path = "folder/" * 20 + "image.png"
        plots.worst_mistakes([mistake("word " * 40, "b", 1.0, path)], tmp_path / "out.png")
        assert any(text.startswith("word") and text.endswith("…") for text in texts)
        assert any(text.startswith("…") and text.endswith("folder/image.png") for text in texts)


class TestBatch:
    def test_shows_the_images_themselves(self, tmp_path):
        red = np.full((4, 8, 8, 3), (200, 0, 0), dtype=np.uint8)
        plots.batch(red, list("abcd"), tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        assert (pixels == (200, 0, 0)).all(axis=2).sum() > 4 * 200 * 200

    def test_a_large_batch_is_cut_and_says_so(self, tmp_path, texts):
        plots.batch(np.zeros((100, 8, 8, 3), np.uint8), [f"label {i}" for i in range(100)], tmp_path / "out.png")
        assert any("64 of 100 images of 8×8 pixels" in text for text in texts)
        assert "label 63" in texts
        assert "label 64" not in texts

    @pytest.mark.parametrize(("n", "labels"), [(0, []), (2, ["a"])])
    def test_refuses_what_does_not_fit(self, n, labels, tmp_path):
        with pytest.raises(ValueError, match="batch"):
            plots.batch(np.zeros((n, 8, 8, 3), np.uint8), labels, tmp_path / "out.png")


class TestTrainingCurves:
    def test_names_the_best_epoch_past_gaps(self, tmp_path, texts):
        plots.training_curves(HISTORY, tmp_path / "out.png")
        assert "best macro-F1: 70.00%, epoch 2" in texts
        assert {"training", "validation", "accuracy", "macro-F1"} <= set(texts)

    def test_without_validation_says_so(self, tmp_path, texts):
        plots.training_curves([{"epoch": 0, "train_loss": 1.0, "valid_loss": None}], tmp_path / "out.png")
        assert "nothing measured" in texts
        assert "validation" not in texts

    def test_a_run_that_diverged_at_once_is_plotted(self, tmp_path):
        plots.training_curves([{"epoch": 0, "train_loss": math.nan}], tmp_path / "out.png")
        assert size(tmp_path / "out.png") > (100, 100)

    def test_refuses_an_empty_history(self, tmp_path):
        with pytest.raises(ValueError, match="no epoch"):
            plots.training_curves([], tmp_path / "out.png")


class TestLrFind:
    def test_suggestions_stand_in_the_legend_on_a_logarithmic_axis(self, tmp_path, texts):
        plots.lr_find(LRS, 1 / (1 + LRS), {"valley": 1.2e-3, "steep": 5e-5}, tmp_path / "out.png")
        assert {"valley: 0.0012", "steep: 5e-05", "10⁻³", "10⁻⁶"} <= set(texts)

    def test_the_explosion_does_not_flatten_the_curve(self, tmp_path, monkeypatch):
        limits = []
        monkeypatch.setattr(plots, "save", lambda figure, path: limits.append(figure.axes[0].get_ylim()))
        losses = np.linspace(3, 1, 30)
        losses[-4:] = 50, 1e6, math.inf, math.nan
        plots.lr_find(LRS, losses, {}, tmp_path / "out.png")
        assert 3 < limits[0][1] < 4

    def test_refuses_when_no_loss_is_finite(self, tmp_path):
        with pytest.raises(ValueError, match="finite"):
            plots.lr_find([1e-3], [math.nan], {}, tmp_path / "out.png")


class TestClassCounts:
    def test_shows_all_43_classes_with_their_counts(self, tmp_path, texts):
        labels = [f"Sign {i}" for i in range(43)]
        plots.class_counts(labels, range(100, 1430, 31)[:43], tmp_path / "out.png")
        assert set(labels) <= set(texts)
        assert "1,402" in texts
        assert any("14 times as many" in text for text in texts)

    def test_of_very_many_classes_both_ends_are_shown(self, tmp_path, texts):
        plots.class_counts([f"c{i}" for i in range(1000)], range(1000), tmp_path / "out.png")
        assert {"c0", "c49", "c950", "c999"} <= set(texts)
        assert not {"c50", "c949"} & set(texts)
        assert any("50 commonest and the 50 rarest" in text for text in texts)

    @pytest.mark.parametrize(("labels", "counts"), [([], []), (["a"], [1, 2])])
    def test_refuses_what_does_not_fit(self, labels, counts, tmp_path):
        with pytest.raises(ValueError, match="class_counts"):
            plots.class_counts(labels, counts, tmp_path / "out.png")
