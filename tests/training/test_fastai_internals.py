"""What is assumed of fastai beyond its documentation holds for the version that is installed."""

from __future__ import annotations

import pytest
import torch
from drawnshapes import learner, network, recipe
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import ParamScheduler  # noqa: F401 - gives fit_one_cycle()
from fastai.vision.learner import create_body
from torch import nn

from signsclf.errors import ModelError
from signsclf.training.fastai_internals import skip_batches, uncut


class Rates(Callback):
    """Notes the share done and the rate of every batch; may begin the epoch with some batches skipped."""

    order = 90

    def __init__(self, skip: int = 0) -> None:
        self.skip, self.seen = skip, []

    def before_train(self) -> None:
        skip_batches(self.learn, self.skip)

    def after_pred(self) -> None:
        if self.training:
            self.seen.append((self.pct_train, self.opt.hypers[-1]["lr"]))


def rates(skip: int) -> list[tuple[float, float]]:
    built = learner(recipe(), network())
    noted = Rates(skip)
    with built.no_bar(), built.no_logging():
        built.fit_one_cycle(3, 0.1, cbs=noted)
    n = len(built.dls.train)
    assert len(noted.seen) == 3 * n
    return noted.seen[:n]


def test_skipped_batches_advance_the_schedule_to_the_last_bit():
    whole, begun = rates(0), rates(2)
    assert begun[: len(whole) - 2] == whole[2:]


def test_a_body_is_taken_whole():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 4, 1))
    taken = create_body(uncut(body), pretrained=False)
    assert list(taken.children()) == [body]
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(taken(x), body(x))


def test_a_callback_may_replace_the_loader_of_an_epoch_before_it_is_read():
    """fastai's own DistributedTrainer does."""
    read: list[int] = []

    class Replaces(Callback):
        def before_train(self) -> None:
            self.learn.dl = [(torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64))] * 3

        def after_batch(self) -> None:
            if self.training:
                read.append(len(self.xb[0]))

    built = learner(recipe(), network())
    with built.no_bar(), built.no_logging():
        built.fit(1, cbs=Replaces())
    assert read == [2, 2, 2]


def test_an_error_that_leaves_a_callback_is_rewritten_and_a_cancelled_fit_is_none():
    """So `RunControl` cancels, and keeps its error for `Fit` to raise."""

    class Raises(Callback):
        def __init__(self, error: Exception) -> None:
            self.error = error

        def after_batch(self) -> None:
            raise self.error

    built = learner(recipe(), network())
    with built.no_bar(), built.no_logging():
        built.fit(1, cbs=Raises(CancelFitException()))
        with pytest.raises(ModelError, match=r"Exception occured in .Raises"):
            built.fit(1, cbs=Raises(ModelError("the disk is full")))
