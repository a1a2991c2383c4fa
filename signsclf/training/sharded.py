"""The training step by micro-batches: the same weights, bit for bit, whatever the number of processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from fastai.callback.core import Callback, CancelBatchException
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from signsclf.errors import LostContactError
from signsclf.recipe import Recipe
from signsclf.training.distributed import FixedSum, Share, cut
from signsclf.training.loaders import SharedValidation, mix_seed
from signsclf.training.precision import Autocast, precision_callbacks


@contextlib.contextmanager
def step_callbacks(recipe: Recipe, share: Share | None, stop: threading.Event) -> Iterator[list[Callback]]:
    """Make the callbacks of a recipe's training step, see `precision_callbacks`.

    Args:
        share: micro-batches of each batch to compute here; None computes whole batches.
        stop: set, in all processes after the same batch, once any of them is asked to stop.
    """
    if share is None:
        with precision_callbacks(recipe) as callbacks:
            yield callbacks
        return
    step = ShardedStep(recipe, share, stop)
    try:
        with step.active:
            yield [step]
    except LostContactError as error:
        # fastai has rewritten the message of an error that left a callback.
        raise LostContactError(step.lost) from error


class ShardedStep(Autocast):
    """Trains on a batch micro-batch by micro-batch, in place of fastai's own step, and shares it between processes.

    Each micro-batch has its own batch-norm statistics, its own random numbers, and its own gradient. Gradients,
    statistics and losses are weighted by the micro-batches' images and added up in one fixed order. There is no
    wrapper around the network: averaged weights, checkpoints and the export see what a single process has.
    """

    # After the schedule, which sets the step's learning rate.
    order = 61

    def __init__(self, recipe: Recipe, share: Share, stop: threading.Event) -> None:
        super().__init__(recipe.device.value, recipe.precision)
        self.share, self.agreed, self.lost = share, stop, ""

    def before_batch(self) -> None:
        if not self.training:
            super().before_batch()
            return
        with self._remembered():
            self._step(self.xb[0], self.yb[0])
        raise CancelBatchException()

    def before_validate(self) -> None:
        self.learn.dl = self.shared = SharedValidation(loader=self.dls.valid, share=self.share)

    def after_validate(self) -> None:
        history = self.learn.epoch_history
        if not history.is_open or not len(self.dls.valid.rows):
            return
        n, world, first = len(self.dls.valid.rows), self.share.world, self.shared.first_row
        logits = torch.cat([torch.empty(0, self.dls.c), *(pred for pred, _ in history.outputs)])
        targets = torch.cat([torch.empty(0, dtype=torch.int64), *(y for _, y in history.outputs)])
        with self._remembered():
            history.outputs = [(world.collect(logits, first, n), world.collect(targets, first, n))]

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except LostContactError as error:
            self.lost = str(error)
            raise

    def _step(self, parts: list[torch.Tensor], y: torch.Tensor) -> None:
        model, learn = self.model, self.learn
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        statistics = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
        kept = [tensor for norm in norms for tensor in norm.buffers(recurse=False)]
        before = [tensor.clone() for tensor in kept]
        seed, batch, pieces = torch.initial_seed(), self.dl.first + self.iter, cut(len(y), self.share.shards)
        sums = FixedSum(len(self.share.mine))
        for number, x in zip(self.share.mine, parts, strict=True):
            for tensor, start in zip(kept, before, strict=True):
                tensor.copy_(start)
            torch.manual_seed(mix_seed(seed, batch, number))
            with self.context(model):
                predicted = model(x)
            targets = y[pieces[number]]
            weight = len(targets) / len(y)
            loss = learn.loss_func(predicted.float(), targets, x) * weight
            loss.backward()
            trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
            asked = torch.full((1,), float(self.share.asked.is_set()), device=loss.device)
            gradients = [parameter.grad.flatten() for parameter in trained]
            weighted = [tensor * weight for tensor in statistics]
            sums.add(torch.cat([*gradients, *weighted, loss.detach().view(1), asked]))
            # Not zeros: a gradient that is added to 0 may lose its sign.
            for parameter in trained:
                parameter.grad = None
        # The next batch's seeds come of it where nothing seeds that batch, as in a search.
        torch.manual_seed(seed)
        self._take_over(self.share.world.sum(sums), trained, statistics)
        for parameter in trained:
            parameter.grad = None

    def _take_over(self, summed: torch.Tensor, trained: list[nn.Parameter], statistics: list[torch.Tensor]) -> None:
        """Make the optimizer's step with a batch's gradients."""
        *values, loss, asked = summed.split([*(tensor.numel() for tensor in (*trained, *statistics)), 1, 1])
        for parameter, gradient in zip(trained, values, strict=False):
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view(parameter.shape))
        for tensor, value in zip(statistics, values[len(trained) :], strict=True):
            tensor.copy_(value)
        if asked.item():
            self.agreed.set()
        learn = self.learn
        learn.loss_grad = learn.loss = loss[0]
        learn("before_step")
        learn.opt.step()
        learn("after_step")
