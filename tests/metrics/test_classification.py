from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from tinysource import loaded_by

from signsclf.errors import ModelError, SourceError
from signsclf.metrics.classification import (
    ClassFigures,
    Report,
    auroc,
    confusion,
    evenly_spaced,
    expected_calibration_error,
    in_top_k,
    reliability,
    wilson,
)


def softmax(logits):
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def names(n):
    return [f"class {i}" for i in range(n)]


@st.composite
def predictions(draw):
    """Probabilities and targets, with many classes that are absent, never predicted, or tied."""
    n_classes, n = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    targets = np.array(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
    logits = draw(st.lists(st.integers(-3, 3), min_size=n * n_classes, max_size=n * n_classes))
    return softmax(np.array(logits, dtype=np.float64).reshape(n, n_classes)), targets


class TestWilson:
    @pytest.mark.parametrize(
        ("k", "n", "low", "high"),
        # Newcombe 1998, table I, method 3: the score interval without continuity correction.
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
    )
    def test_agrees_with_published_intervals(self, k, n, low, high):
        assert wilson(k, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))

    def test_knows_nothing_without_images(self):
        assert wilson(0, 0) == (0.0, 1.0)

    @given(st.integers(0, 100_000), st.integers(1, 100_000))
    def test_holds_the_share_and_is_symmetric(self, k, n):
        k = min(k, n)
        low, high = wilson(k, n)
        assert 0 <= low <= k / n <= high <= 1
        assert wilson(n - k, n) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))

    def test_touches_the_ends_exactly(self):
        assert wilson(0, 7)[0] == 0.0
        assert wilson(7, 7)[1] == 1.0

    @pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 5), (0, -1)])
    def test_refuses_impossible_counts(self, k, n):
        with pytest.raises(ValueError, match="wilson"):
            wilson(k, n)


class TestConfusion:
    def test_rows_are_true_and_columns_predicted(self):
        found = confusion(np.array([0, 0, 2]), np.array([1, 1, 2]), 3)
        assert found.among(np.arange(3)).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
        assert found.among(np.array([2, 0])).tolist() == [[1, 0], [0, 0]]
        assert (found.n_true.tolist(), found.n_predicted.tolist(), found.n_right.tolist()) == (
            [2, 0, 1],
            [0, 2, 1],
            [0, 0, 1],
        )
        assert found.mistakes() == [(0, 1, 2)]

    def test_mistakes_come_commonest_first_and_in_class_order_among_equals(self):
        found = confusion(np.array([2, 0, 1, 1, 1]), np.array([0, 1, 2, 2, 1]), 3)
        assert found.mistakes() == [(1, 2, 2), (0, 1, 1), (2, 0, 1)]

    def test_of_a_hundred_thousand_classes_only_what_occurs_is_held(self):
        found = confusion(np.array([99_999, 0]), np.array([99_999, 99_998]), 100_000)
        assert found.n.tolist() == [1, 1]
        assert found.n_right.sum() == 1

    @pytest.mark.parametrize(
        ("targets", "predicted"),
        [([0, 3], [0, 0]), ([0, -1], [0, 0]), ([0.0, 1.0], [0, 0]), ([0, 1], [0]), ([[0, 1]], [[0, 1]])],
    )
    def test_refuses_what_would_be_counted_wrongly(self, targets, predicted):
        with pytest.raises(ValueError):
            confusion(np.array(targets), np.array(predicted), 3)


class TestReport:
    @settings(max_examples=150, deadline=None)
    @given(predictions())
    def test_agrees_with_scikit_learn(self, case):
        probabilities, targets = case
        n_classes = probabilities.shape[1]
        report = Report.from_probabilities(probabilities, targets, names(n_classes))
        predicted, present = probabilities.argmax(axis=1), np.unique(targets)
        f1 = {"labels": present, "zero_division": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert report.accuracy == pytest.approx(sk.accuracy_score(targets, predicted))
            assert report.macro_f1 == pytest.approx(sk.f1_score(targets, predicted, average="macro", **f1))
            assert report.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
            if n_classes > 1:
                every = np.arange(n_classes)
                assert report.nll == pytest.approx(sk.log_loss(targets, probabilities, labels=every))
            scores = sk.precision_recall_fscore_support(
                targets, predicted, labels=np.arange(n_classes), zero_division=0
            )
        assert report.n_classes_present == len(present)
        for figures, precision, recall, score, n in zip(report.per_class, *scores, strict=True):
            assert figures.n == n
            assert (figures.precision or 0) == pytest.approx(precision)
            assert (figures.recall or 0) == pytest.approx(recall)
            assert (figures.f1 or 0) == pytest.approx(score)

    @settings(max_examples=40, deadline=None)
    @given(predictions(), st.integers(0, 2**32 - 1))
    def test_agrees_with_torchmetrics(self, case, seed):
        torch = pytest.importorskip("torch")
        from torchmetrics import functional as tm

        probabilities, targets = case
        n, n_classes = probabilities.shape
        if n_classes < 2:
            return
        # Without ties, of which it is not said who comes first; and none on the edge of a bin, where float32 rounds.
        probabilities = softmax(np.log(probabilities) + np.random.default_rng(seed).normal(0, 0.3, (n, n_classes)))
        edges = np.abs(probabilities.max(axis=1) * 15 % 1 - 0.5)
        if edges.max() > 0.4999:
            return
        report = Report.from_probabilities(probabilities, targets, names(n_classes))
        p, t = torch.tensor(probabilities), torch.tensor(targets)
        many = {"num_classes": n_classes}
        found = float(tm.classification.multiclass_accuracy(p, t, average="micro", **many))
        assert report.accuracy == pytest.approx(found, abs=1e-6)
        top = float(tm.classification.multiclass_accuracy(p, t, average="micro", top_k=min(5, n_classes), **many))
        assert report.top5 == pytest.approx(top, abs=1e-6)
        ece = float(tm.classification.multiclass_calibration_error(p, t, n_bins=15, **many))
        assert report.ece == pytest.approx(ece, abs=1e-5)
        matrix = tm.classification.multiclass_confusion_matrix(p, t, **many).numpy()
        found = confusion(targets, probabilities.argmax(axis=1), n_classes).among(np.arange(n_classes))
        np.testing.assert_array_equal(found, matrix)
        f1 = tm.classification.multiclass_f1_score(p, t, average=None, **many).tolist()
        for figures, expected in zip(report.per_class, f1, strict=True):
            if figures.n:
                assert figures.f1 == pytest.approx(expected, abs=1e-6)

    @settings(max_examples=60, deadline=None)
    @given(predictions())
    def test_brier_and_top5_by_their_definitions(self, case):
        probabilities, targets = case
        n_classes = probabilities.shape[1]
        report = Report.from_probabilities(probabilities, targets, names(n_classes))
        assert report.brier == pytest.approx(((probabilities - np.eye(n_classes)[targets]) ** 2).sum(axis=1).mean())
        # A stable sort puts the first of equals first, as argmax does.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        assert report.top5 == pytest.approx((best == targets[:, None]).any(axis=1).mean())

    def test_a_worked_example(self):
        probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.6, 0.4, 0.0]])
        report = Report.from_probabilities(probabilities, np.array([0, 1, 1, 1]), ["a", "b", "c"])
        assert report.n == 4
        assert report.accuracy == 0.5
        assert (report.accuracy_low, report.accuracy_high) == wilson(2, 4)
        assert report.majority_accuracy == 0.75
        assert report.top5 == 1.0
        assert report.per_class[0] == ClassFigures(label="a", n=1, precision=1 / 3, recall=1.0, f1=0.5)
        assert report.per_class[1] == ClassFigures(label="b", n=3, precision=1.0, recall=1 / 3, f1=0.5)
        assert report.macro_f1 == 0.5
        assert report.balanced_accuracy == pytest.approx(2 / 3)
        # Bins of 1/15: 0.6 twice (both wrong), 0.8 and 0.9 (both right) each in a bin of their own.
        assert report.ece == pytest.approx((2 * 0.6 + 0.2 + 0.1) / 4)

    def test_a_class_without_images_is_undefined_and_not_in_the_means(self):
        report = Report.from_probabilities(np.array([[1.0, 0, 0], [0, 1.0, 0]]), np.array([0, 0]), ["a", "b", "c"])
        assert report.n_classes_present == 1
        assert report.per_class[1] == ClassFigures(label="b", n=0, precision=0.0, recall=None, f1=None)
        assert report.per_class[2] == ClassFigures(label="c", n=0, precision=None, recall=None, f1=None)
        assert report.macro_f1 == pytest.approx(2 / 3)
        assert report.balanced_accuracy == 0.5

    def test_a_class_never_predicted_has_no_precision_and_an_f1_of_zero(self):
        report = Report.from_probabilities(np.array([[1.0, 0], [1.0, 0]]), np.array([0, 1]), ["a", "b"])
        assert report.per_class[1] == ClassFigures(label="b", n=1, precision=None, recall=0.0, f1=0.0)

    def test_equally_probable_classes_are_not_all_right(self):
        """A model that answers the same for everything must not look good, top-5 included."""
        uniform = np.full((20, 20), 0.05)
        report = Report.from_probabilities(uniform, np.arange(20), names(20))
        assert report.accuracy == 0.05
        assert report.top5 == 0.25

    def test_zero_probability_of_the_truth_stays_finite(self):
        report = Report.from_probabilities(np.array([[1.0, 0.0]]), np.array([1]), ["a", "b"])
        assert 80 < report.nll < 100
        assert report.brier == 2.0
        assert report.ece == 1.0

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_rounding_of_the_precision_is_tolerated(self, dtype):
        probabilities = softmax(np.random.default_rng(0).normal(size=(50, 43)) * 3).astype(dtype)
        report = Report.from_probabilities(probabilities, np.arange(50) % 43, names(43))
        exact = Report.from_probabilities(probabilities.astype(np.float64), np.arange(50) % 43, names(43))
        assert report.nll == pytest.approx(exact.nll, rel=1e-9)
        assert report.brier == pytest.approx(exact.brier, rel=1e-9)

    def test_to_dict_is_strict_json_and_whole(self):
        report = Report.from_probabilities(np.array([[1.0, 0, 0]]), np.array([0]), ["a", "b", "ü"])
        read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert set(read) == {field.name for field in dataclasses.fields(Report)}
        assert read["per_class"][2] == {"label": "ü", "n": 0, "precision": None, "recall": None, "f1": None}
        assert Report(**{**read, "per_class": tuple(ClassFigures(**c) for c in read["per_class"])}) == report

    def test_no_images_is_the_users_mistake(self):
        with pytest.raises(SourceError, match="no images"):
            Report.from_probabilities(np.zeros((0, 2)), np.zeros(0, dtype=int), ["a", "b"])

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_diverged_model_is_named(self, bad):
        with pytest.raises(ModelError, match="1 of 2 images"):
            Report.from_probabilities(np.array([[0.5, 0.5], [bad, 0.5]]), np.array([0, 1]), ["a", "b"])

    @pytest.mark.parametrize(
        ("probabilities", "targets", "classes", "match"),
        [
            ([[2.0, -1.0]], [0], ["a", "b"], "logits"),
            ([[0.7, 0.7]], [0], ["a", "b"], "add up to 1"),
            ([[1.0, 0.0]], [2], ["a", "b"], "targets"),
            ([[1.0, 0.0]], [-1], ["a", "b"], "targets"),
            ([[1.0, 0.0]], [0, 1], ["a", "b"], "2 targets"),
            ([[1.0, 0.0]], [0.0], ["a", "b"], "integers"),
            ([[1.0, 0.0]], [0], ["a", "b", "c"], "shape"),
            ([1.0, 0.0], [0], ["a", "b"], "shape"),
            ([[1, 0]], [0], ["a", "b"], "floats"),
            ([[1.0, 0.0]], [0], ["a", "a"], "differ"),
        ],
    )
    def test_refuses_what_does_not_fit(self, probabilities, targets, classes, match):
        with pytest.raises(ValueError, match=match):
            Report.from_probabilities(np.array(probabilities), np.array(targets), classes)

    @pytest.mark.parametrize(
        "change",
        [
            {"accuracy": float("nan")},
            {"accuracy": 1.1},
            {"accuracy_low": 0.99},
            {"nll": float("inf")},
            {"n": 0},
            {"n": 3},
            {"n_classes_present": 1},
            {"brier": -0.1},
            {"top5": 0.1},
        ],
    )
    def test_cannot_be_built_with_impossible_figures(self, change):
        report = Report.from_probabilities(np.array([[1.0, 0], [1.0, 0]]), np.array([0, 1]), ["a", "b"])
        with pytest.raises(ValueError):
            dataclasses.replace(report, **change)

    def test_is_frozen(self):
        report = Report.from_probabilities(np.array([[1.0]]), np.array([0]), ["a"])
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.accuracy = 1.0


class TestCalibrationError:
    def test_is_small_for_a_calibrated_and_large_for_a_boastful_model(self):
        random = np.random.default_rng(0)
        confidence = random.uniform(0.2, 1, 20_000)
        correct = random.random(20_000) < confidence
        assert expected_calibration_error(confidence, correct) < 0.02
        assert expected_calibration_error(np.ones(20_000), correct) == pytest.approx(1 - correct.mean())

    def test_one_bin_is_the_gap_of_the_means(self):
        gap = expected_calibration_error(np.array([0.9, 0.5]), np.array([True, False]), bins=1)
        assert gap == pytest.approx(0.2)

    def test_bins_hold_all_images_and_say_nothing_where_empty(self):
        counts, mean, accuracy = reliability(np.array([0.05, 0.1, 0.95, 1.0]), np.array([1, 0, 1, 1], bool), bins=10)
        assert counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
        assert mean[[0, 9]].tolist() == [pytest.approx(0.075), pytest.approx(0.975)]
        assert accuracy[[0, 9]].tolist() == [0.5, 1.0]
        assert np.isnan(accuracy[1:9]).all()


class TestAuroc:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=60))
    def test_agrees_with_scikit_learn_ties_and_all(self, pairs):
        scores, positive = np.array([score for score, _ in pairs]) / 4, np.array([p for _, p in pairs])
        if positive.all() or not positive.any():
            assert auroc(scores, positive) is None
        else:
            assert auroc(scores, positive) == pytest.approx(sk.roc_auc_score(positive, scores))

    @pytest.mark.parametrize("scores", [[0.1, np.nan], [0.1], [[0.1, 0.2]]])
    def test_refuses_what_cannot_be_ranked(self, scores):
        with pytest.raises(ValueError, match="auroc"):
            auroc(np.array(scores), np.array([True, False]))


def test_top_k_counts_the_classes_before_the_true_one():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    assert in_top_k(probabilities, np.array([1, 1]), 1).tolist() == [False, False]
    assert in_top_k(probabilities, np.array([1, 1]), 2).tolist() == [True, True]


def test_the_figures_need_numpy_alone():
    code = "import signsclf.metrics.classification, signsclf.report.files"
    assert loaded_by(code, "torch", "fastai", "pandas", "matplotlib", "sklearn") == []


@pytest.mark.parametrize(
    ("n", "most", "chosen"), [(0, 4, []), (3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (5, 1, [0]), (5, 0, [])]
)
def test_evenly_spaced_positions_reach_from_end_to_end(n, most, chosen):
    assert evenly_spaced(n, most).tolist() == chosen
