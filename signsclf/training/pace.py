"""How long a training takes: estimated from warm steps on its own batches, corrected by the steps that it makes."""

from __future__ import annotations

import copy
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from fastai.learner import Learner
from torch import nn

from signsclf.recipe import Recipe
from signsclf.training.precision import Autocast, flushed_denormals

SEARCH_STEPS = 100
"""Steps of a learning-rate search."""
# Phases 0 and 1 train, and 1,000 is the learning-rate search's: samples of its own, so that nothing repeats here.
_PHASE = 2_000
_WARM_STEPS, _WARM_SECONDS = 2, 1.0
_MOST_STEPS, _MOST_SECONDS, _FEWEST_STEPS = 20, 3.0, 2
_RECENT = 64
_TRIAL_SECONDS = 0.4
_ALONE = 0.85
"""A step that keeps this share of its threads busy has the CPU to itself: idle threads spin, which counts as busy."""
_PAUSE = 10.0


def typical(seconds: Sequence[float]) -> float:
    """Average step times, without pauses: those of over ten times the median.

    Not the median: rendering signs for several batches at once makes every few steps longer on purpose.
    """
    values = np.asarray(seconds)
    return float(values[values <= _PAUSE * np.median(values)].mean())


class Pace:
    """Seconds of a training's steps and validations.

    Args:
        steps: seconds of a step in each phase.
        valid: seconds of a validation.
    """

    def __init__(self, steps: Sequence[float], valid: float) -> None:
        self.steps, self.valid = list(steps), valid
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._phase = -1

    def step(self, phase: int, seconds: float) -> None:
        """Take in how long a step took; the estimates of later phases are corrected by the same factor."""
        if phase != self._phase:
            self._recent.clear()
            self._phase, self._estimated = phase, list(self.steps)
        self._recent.append(seconds)
        factor = typical(self._recent) / max(self._estimated[phase], 1e-9)
        self.steps[phase:] = [factor * estimated for estimated in self._estimated[phase:]]

    def validation(self, seconds: float) -> None:
        """Take in how long a validation took."""
        self.valid = seconds

    def left(self, epochs: Sequence[int], n_batches: int, phase: int = 0, epoch: int = 0, batch: int = 0) -> float:
        """Estimate the seconds from a position to the end.

        Args:
            epochs: of each phase.
            n_batches: of an epoch.
            phase, epoch, batch: what comes next.
        """
        total = -batch * self.steps[phase] if phase < len(epochs) else 0.0
        for number in range(phase, len(epochs)):
            n = epochs[number] - (epoch if number == phase else 0)
            total += n * (n_batches * self.steps[number] + self.valid)
        return max(0.0, total)


def choose_threads(step: Callable[[], object]) -> int:
    """Set torch to a single thread if a step is faster with it, as on a CPU that other programs use too.

    Threads that share the work wait for the last of them at every layer: one that has to give way to another program
    holds up all. The single thread is tried only where the step does not get the CPU time that all threads ask for.

    Args:
        step: a training step, already warm.

    Returns:
        torch's threads from here on.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return 1
    shared, seconds = _timed(step)
    if shared > _ALONE * threads:
        return threads
    tried: dict[int, list[float]] = {threads: [seconds], 1: []}
    for number in (1, threads, 1, threads):
        torch.set_num_threads(number)
        step()
        tried[number].append(_timed(step)[1])
    if min(tried[1]) < min(tried[threads]):
        torch.set_num_threads(1)
    return torch.get_num_threads()


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    """Measure how many cores a step keeps busy, and its seconds."""
    began, cpu, n = time.monotonic(), time.process_time(), 0
    while n < 2 or time.monotonic() - began < _TRIAL_SECONDS:
        step()
        n += 1
    seconds = time.monotonic() - began
    return (time.process_time() - cpu) / seconds, seconds / n


def estimate(
    learner: Learner, model: nn.Module, recipe: Recipe, epochs: Sequence[int], choosing_threads: bool = False
) -> Pace:
    """Time warm steps of a copy of the network on batches like those of training; takes at most some three seconds.

    Args:
        model: the whole network, which stays as it is.
        epochs: of each phase; two phases where the head trains alone first.
        choosing_threads: whether torch's threads are chosen first, see `choose_threads`; on a CPU only.
    """
    loader, device = learner.dls.train, learner.dls.device
    twin = copy.deepcopy(model).to(device).train()
    parameters = list(twin.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = learner.opt_func([parameters], lr=1e-6, wd=recipe.weight_decay)
    autocast = Autocast(device.type, recipe.precision)

    def pass_through(x: torch.Tensor, y: torch.Tensor, backward: bool) -> float:
        began = time.monotonic()
        with torch.set_grad_enabled(backward):
            with autocast.context(twin):
                output = twin(x)
            loss = learner.loss_func(output.float(), y, x)
        if backward:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()
        return time.monotonic() - began

    loading: list[float] = []
    whole: list[float] = []
    forward: list[float] = []
    began = time.monotonic()
    warm = epoch = 0
    # A training of a few steps is not to wait for more of them than it has.
    most = min(_MOST_STEPS, max(_FEWEST_STEPS, sum(epochs) * len(loader) // 10))
    with flushed_denormals(), torch.random.fork_rng(devices=[]):
        while not _enough(len(whole), most, time.monotonic() - began):
            epoch += 1
            asked = time.monotonic()
            for x, y in loader.batches(_PHASE, epoch):
                loaded = time.monotonic() - asked
                step = pass_through(x, y, True)
                if choosing_threads and device.type == "cpu":
                    choosing_threads = False
                    choose_threads(functools.partial(pass_through, x, y, True))
                    began = time.monotonic()
                if warm < _WARM_STEPS and time.monotonic() - began < _WARM_SECONDS:
                    # The first ones compile kernels, map memory and read pixels from the disk.
                    warm += 1
                else:
                    loading.append(loaded)
                    whole.append(step)
                    forward.append(pass_through(x, y, False))
                if _enough(len(whole), most, time.monotonic() - began):
                    break
                asked = time.monotonic()
    load, full, half = (typical(seconds) for seconds in (loading, whole, forward))
    valid = len(learner.dls.valid.rows) / loader.bs * half
    steps = [load + half, load + full] if len(epochs) == 2 else [load + full]
    return Pace(steps, valid)


def _enough(steps: int, most: int, seconds: float) -> bool:
    return steps >= most or (seconds > _MOST_SECONDS and steps >= _FEWEST_STEPS)
