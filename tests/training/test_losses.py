from __future__ import annotations

import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from drawnshapes import CLASSES, TINY, learner, network, recipe
from fastai.callback.core import Callback
from test_fit import assert_same, break_after, resume
from test_fit import begin as begin_plainly

from signsclf.training import losses
from signsclf.training.distributed import Share
from signsclf.training.fit import Fit
from signsclf.training.losses import CrossEntropy, Distillation, teaching


class Always:
    """A teacher that answers the first class with this probability, and keeps what it was shown."""

    def __init__(self, probability: float = 0.98) -> None:
        rest = (1 - probability) / (len(CLASSES) - 1)
        self.answer = torch.tensor([probability] + [rest] * (len(CLASSES) - 1))
        self.shown: list[torch.Tensor] = []

    def __call__(self, view: torch.Tensor, temperature: float) -> torch.Tensor:
        self.shown.append(view.clone())
        return self.answer.expand(len(view), -1)


class ByView:
    """A teacher whose answers depend on the pixels, as those of networks do."""

    def __call__(self, view: torch.Tensor, temperature: float) -> torch.Tensor:
        return (10 * view.mean((2, 3)) / temperature).softmax(1)


@pytest.fixture
def taught(monkeypatch):
    """Lets a teacher of the test's own teach all networks; gives the function to name it with."""

    def by(teacher) -> None:
        monkeypatch.setattr(losses, "find_teachers", lambda of, classes: of.teacher or ())
        monkeypatch.setattr(losses, "Teachers", lambda *_: teacher)

    return by


def of_teacher(**changes):
    return recipe(teacher="t", teacher_temperature=2.0, **{"teacher_weight": 0.9, **changes})


def test_the_loss_is_hinton_s():
    logits, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    teacher = Always(0.7)
    loss = Distillation(teacher, 0.8, 4.0, 0.1)
    own = (logits / 4).softmax(1)
    divergence = (teacher.answer * (teacher.answer / own).log()).sum(1).mean()
    expected = 0.2 * F.cross_entropy(logits, y, label_smoothing=0.1) + 0.8 * 16 * divergence
    assert loss(logits, y, torch.zeros(5, 3, 4, 4)) == pytest.approx(expected.item(), rel=1e-5)
    # In validation there is no view: the labels alone.
    assert torch.equal(loss(logits, y), CrossEntropy(label_smoothing=0.1)(logits, y))


def test_without_a_teacher_the_loss_is_that_of_the_labels():
    loss, callbacks = teaching(recipe(), TINY, CLASSES)
    assert type(loss) is CrossEntropy and not callbacks


def test_a_network_learns_what_its_teacher_says_and_not_the_labels(taught):
    taught(Always())
    of = of_teacher(teacher_weight=1.0, epochs=3)
    result = begin_plainly(of).run()
    share_of_the_first = learner(of, network()).dls.valid.source.targets[80:].tolist().count(0) / 40
    assert result.history[-1]["accuracy"] == share_of_the_first
    taught(Always())
    mixed = begin_plainly(of.replace(teacher_weight=0.0, epochs=8)).run()
    assert mixed.history[-1]["accuracy"] > 0.8


def test_teacher_and_network_see_the_same_view_in_training_alone(taught):
    teacher = Always()
    taught(teacher)
    seen = []

    class Views(Callback):
        def before_batch(self) -> None:
            if self.training:
                seen.append(self.xb[0].clone())

    model, of = network(), of_teacher(epochs=1, augment="strong")
    fit = Fit(learner(of, model), model, of)
    fit.learner.add_cb(Views())
    fit.run()
    assert len(seen) == len(teacher.shown) == 5
    assert all(torch.equal(a, b) for a, b in zip(seen, teacher.shown, strict=True))


def test_one_shard_of_all_teaches_as_the_plain_step_does(taught):
    taught(ByView())
    of = of_teacher(epochs=1)
    plain = begin_plainly(of).run()
    sharded = begin_plainly(of)
    sharded.share = Share(shards=1)
    found = sharded.run()
    for name, tensor in plain.state.items():
        assert torch.allclose(tensor.float(), found.state[name].float(), atol=1e-5), name


@pytest.mark.parametrize("batches", [2, 7])
def test_a_broken_run_ends_in_the_weights_of_the_unbroken_one(taught, tmp_path, batches):
    taught(ByView())
    of = of_teacher(ema_decay=0.9)
    whole = begin_plainly(of, dropout=True).run()
    assert break_after(of, tmp_path, batches, dropout=True).stopped
    assert_same(whole, resume(of, tmp_path, dropout=True))


def test_an_exported_learner_holds_no_teacher(taught):
    taught(ByView())
    built = learner(of_teacher(), network())
    file = io.BytesIO()
    pickle.dump(built.loss_func, file)
    file.seek(0)
    again = pickle.load(file)
    assert type(again) is CrossEntropy
    assert again.label_smoothing == built.loss_func.label_smoothing > 0
