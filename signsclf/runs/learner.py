"""For fastai users: a learner on any source, to train as one likes, and a model folder of what came of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastai.callback import progress  # noqa: F401 - shows bars, as in fastai's notebooks
from fastai.learner import Learner
from fastai.metrics import F1Score, accuracy
from torch import nn

from signsclf.choices import Layout, Reading
from signsclf.data.cache import AUTO, choose_cache
from signsclf.data.table import Source
from signsclf.errors import SignsclfError
from signsclf.files import user_path
from signsclf.model.folder import RUN
from signsclf.observer import Observer
from signsclf.recipe import Recipe, Solver
from signsclf.runs.building import build_loaders, build_network, start_head
from signsclf.runs.export import new_folder
from signsclf.runs.folder import CHANGEABLE, RunRequest, refuse_images_inside, refuse_taken
from signsclf.runs.prepare import Prepared, prepare, read_plan
from signsclf.runs.train import Outcome, finish_run, write_inputs
from signsclf.training.fit import FitResult
from signsclf.training.learner import build_learner
from signsclf.training.loaders import planned_samples
from signsclf.training.settings import own_settings


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a learner was made from, and the network that its body and head are views of."""

    prepared: Prepared
    network: nn.Module


@own_settings()
def learner(
    source: str | Path | Source,
    recipe: Recipe | None = None,
    *,
    layout: Layout | Reading | None = None,
    skip_bad: bool = False,
    cache: str | Path = AUTO,
    observer: Observer | None = None,
) -> Learner:
    """Make a fastai learner on a source, with the split, sampling, augmentation and weights of a recipe.

    It is a ``vision_learner`` on a ``DataBlock``; what fastai does with one works: ``dls.show_batch``, ``lr_find``,
    ``fine_tune``, ``predict``, callbacks, ``export``. Its items are table rows of path, label and row. Epochs, rates,
    precision, averaging of weights and patience are the caller's: of these the recipe's are for ``signsclf train``. So
    are outliers, whose targets are no class.

    Args:
        source, recipe, cache, observer: see `signsclf.runs.train.train`.
        layout: how the source is read, see `signsclf.choices.Reading`.
        skip_bad: leave unreadable images out instead of stopping.

    Raises:
        SignsclfError: the recipe's architecture is not trained by gradients; else as `signsclf.runs.train.train`.
    """
    observer = observer or Observer()
    planned = read_plan(source, layout, recipe or Recipe(), observer)
    if planned.solver is not Solver.GRADIENT:
        what = "freeze" if planned.recipe.freeze else f"arch {planned.arch.name}"
        raise SignsclfError(
            f"--{what}: not trained by torch's gradients; leave it out, or choose another, such as resnet34"
        )
    planned = replace(planned, recipe=planned.recipe.replace(outliers=0.0))
    model = build_network(planned, observer)
    prepared = prepare(planned, skip_bad, observer, choose_cache(cache, observer))
    loaders = build_loaders(prepared)
    if prepared.recipe.probe_first:
        start_head(prepared, loaders, model, observer, threading.Event())
    # With the data: an exported learner has other loaders, empty ones, and does not hold it.
    loaders.origin = Origin(prepared=prepared, network=model)
    made = build_learner(loaders, model, prepared.arch, prepared.recipe)
    made.metrics = [accuracy, F1Score(average="macro")]
    return made


@own_settings()
def finish(learner: Learner, folder: str | Path, /, *, observer: Observer | None = None, **options: Any) -> Outcome:
    """Turn what a learner was trained to into a model folder like those of ``signsclf train``: evaluated and exported.

    The weights are those that the learner has now; it stays as it is.

    Args:
        learner: of `learner`, with its own loaders and network, trained in any way.
        folder: the model folder to write.
        observer: told of progress.
        options: the fields of `signsclf.runs.folder.RunRequest` that decide no weights: ``overwrite``, ``int8``,
            ``max_accepted_error``, ``learner``, ``pictures``, ``bare``.

    Raises:
        SignsclfError: the learner is not of `learner`, or has other loaders or another network by now.
        LockedError: another process writes the folder.
        ModelError, ParityError: see `signsclf.runs.train.train`.
        TypeError: an option is not known.
    """
    if unknown := options.keys() - CHANGEABLE:
        raise TypeError(f"finish: no option {min(unknown)!r}; there are {sorted(CHANGEABLE)}")
    origin = getattr(learner.dls, "origin", None)
    if origin is None:
        raise SignsclfError(
            "signsclf.finish: the learner's dls are not those that signsclf.learner made, so there is nothing to "
            "evaluate it on; give it a learner of signsclf.learner with its own dls"
        )
    network, prepared = origin.network, _by_hand(origin.prepared)
    if {id(p) for p in network.parameters()} != {id(p) for p in learner.model.parameters()}:
        raise SignsclfError(
            "signsclf.finish: the learner's model is no longer the network that signsclf.learner built, and cannot be "
            "exported; copy weights into it with load_state_dict instead"
        )
    history = learner.epoch_history
    result = FitResult(
        state={name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()},
        best_epoch=None,
        history=history.rows,
        samples=history.samples.cpu().numpy(),
        lr=None,
        seconds=sum(row["seconds"] for row in history.rows),
        stopped=False,
    )
    source = prepared.source
    request = RunRequest.of(source.origin, source.reading, **options)
    out = user_path(folder).absolute()
    refuse_taken(out, request.overwrite)
    refuse_images_inside(out, prepared.split.table["path"])
    with new_folder(out, request.overwrite) as partial:
        write_inputs(partial / RUN, prepared)
        return finish_run(request, prepared, result, planned_samples(learner.dls), partial, observer or Observer())


def _by_hand(prepared: Prepared) -> Prepared:
    """Leave out of the recipe what the caller decided in its place."""
    theirs = dict.fromkeys(("epochs", "samples", "freeze_epochs", "lr", "lr_ratio", "ema_decay", "precision", "shards"))
    return replace(prepared, plan=replace(prepared.plan, recipe=prepared.recipe.replace(**theirs, patience=0)))
