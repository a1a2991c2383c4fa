"""What of fastai is used beyond its documentation; `tests/training/test_fastai_internals.py` tests each assumption.

The version of fastai is capped for these.
"""

from __future__ import annotations

from fastai.learner import Learner
from torch import nn


def skip_batches(learner: Learner, n: int) -> None:
    """Advance the schedule of the current epoch by ``n`` batches that were trained on before a run was resumed.

    fastai has no way to begin within an epoch. Its schedules follow ``pct_train``, which its ``TrainEvalCallback``
    adds up batch by batch: only the same additions give the same last bit. Call it in ``before_train``.
    """
    for _ in range(n):
        learner.pct_train += 1.0 / (len(learner.dl) * learner.n_epoch)


def uncut(body: nn.Module) -> nn.Module:
    """Wrap a body so that ``vision_learner`` takes all of it.

    ``vision_learner`` accepts a cut but does not pass it on: it cuts before the last pooling layer, so this adds one.
    """
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1))
