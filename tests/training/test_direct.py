from __future__ import annotations

import numpy as np
import pytest
import torch
from drawnshapes import CLASSES, SIZE, loaders, recipe
from sklearn.linear_model import Ridge
from tinysource import Watched

from signsclf.errors import DivergedError
from signsclf.observer import BatchDone, EpochDone
from signsclf.training.direct import DirectFit, LeastSquares, NumpyFit
from signsclf.training.networks import linear, perceptron

PLAIN = {"augment": "none", "balance": "none", "label_smoothing": 0.0, "epochs": 1}
SOLVED = {**PLAIN, "arch": "linear-regression", "lr": None, "optimizer": None}


def solve(n_train: int = 80, **changes) -> LeastSquares:
    of = recipe(**{**SOLVED, **changes})
    return LeastSquares(loaders(of, n_train), linear(len(CLASSES), SIZE), of)


def train(observer=None, **changes) -> NumpyFit:
    torch.manual_seed(0)
    of = recipe(**{**PLAIN, "arch": "numpy-mlp", "lr": 0.02, "epochs": 6, **changes})
    return NumpyFit(loaders(of), perceptron(len(CLASSES), SIZE, hidden=32), of, observer=observer)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_least_squares_is_ridge_regression(ridge):
    fit = solve(weight_decay=ridge)
    result = fit.run()
    train = fit.loaders.train
    x, y = train.new(shuffle=False, drop_last=False, bs=len(train.rows)).one_batch()
    one_hot = np.eye(len(CLASSES))[y]
    pixels = x.flatten(1).double().numpy()
    theirs = Ridge(alpha=ridge * len(pixels), solver="cholesky").fit(pixels, one_hot)
    np.testing.assert_allclose(result.state["fc.weight"], theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(result.state["fc.bias"], theirs.intercept_, atol=1e-5)
    error = ((theirs.predict(pixels) - one_hot) ** 2).mean()
    assert result.history[0]["train_loss"] == pytest.approx(error, abs=1e-6)


def test_least_squares_counts_its_samples():
    fit = solve(epochs=3, augment="light", balance="full", weight_decay=0.1)
    result = fit.run()
    assert result.samples.sum() == 3 * 80
    assert [row["epoch"] for row in result.history] == [1]
    assert result.lr is None
    assert not result.stopped


def test_the_network_in_numpy_learns():
    watched = Watched()
    fit = train(watched, epochs=30)
    result = fit.run()
    assert len(result.history) == 30
    assert result.history[-1]["train_loss"] < 0.3 * result.history[0]["train_loss"]
    scores = [(row["macro_f1"], -row["valid_loss"]) for row in result.history]
    assert max(scores)[0] > 0.8
    assert result.best_epoch == 30
    assert result.lr == 0.02
    assert [event.row["epoch"] for event in watched.events if isinstance(event, EpochDone)] == list(range(1, 31))
    assert any(isinstance(event, BatchDone) for event in watched.events)


def test_the_best_weights_are_kept_apart_from_those_that_train_on():
    fit = train(epochs=12, lr=0.1, patience=12)
    result = fit.run()
    assert result.best_epoch < 12
    fit.model.load_state_dict(result.state)
    logits = torch.cat([fit.model(x) for x, _ in fit.loaders.valid])
    targets = torch.cat([y for _, y in fit.loaders.valid])
    accuracy = (logits.argmax(1) == targets).double().mean().item()
    assert accuracy == pytest.approx(result.history[result.best_epoch - 1]["accuracy"])


def test_a_training_that_diverges_stops_and_names_a_lower_rate():
    with pytest.raises(DivergedError, match=r"diverged.*at --lr 0.3; start anew with --lr 0.03"):
        train(epochs=12, lr=0.3).run()


def test_the_same_training_twice_is_the_same():
    one, two = train(augment="light").run(), train(augment="light").run()
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    other = train(augment="light", seed=1).run()
    assert not all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_patience_ends_it():
    result = train(epochs=60, lr=1e-8, patience=3).run()
    assert len(result.history) == result.best_epoch + 3


@pytest.mark.parametrize("make", [solve, train])
def test_it_stops_when_asked(make):
    fit: DirectFit = make()
    fit.stop.set()
    result = fit.run()
    assert result.stopped
    assert result.history == []
