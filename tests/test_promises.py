"""Breaks on purpose what the program promises: the suite's check must notice, and one that passes anyway fails here."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable

import pytest
import test_cli
import test_evaluate
import test_fit
import test_onnx
import test_outputs
import test_split
import test_train
import torch
from test_fit import PLAIN, unbroken  # noqa: F401
from test_onnx import no_export, signnet  # noqa: F401 - fixtures of the checks
from test_outputs import photos  # noqa: F401
from tinysource import one_thread

import signsclf
from signsclf import outputs
from signsclf.cli import data as cli_data
from signsclf.cli import predict as cli_predict
from signsclf.data import cache, split
from signsclf.errors import SignsclfError
from signsclf.export import onnx as export
from signsclf.export.onnx import torch_logits
from signsclf.recipe import SplitBy
from signsclf.runs import building, finish

Patch = pytest.MonkeyPatch


# -- faults ----------------------------------------------------------------------------------------------------------


def split_images_one_by_one(patch: Patch) -> None:
    real = split._keys
    patch.setattr(split, "_keys", lambda groups, by: real(groups, SplitBy.RANDOM))


def take_figures_from_the_network(patch: Patch) -> None:
    def by_the_network(predict, pixels, rows):
        exported = predict.__self__
        return torch_logits(exported.model, exported.arch, pixels[rows])

    patch.setattr(finish, "_by_chunks", by_the_network)


def count_repeated_images_as_distinct(patch: Patch) -> None:
    numbers = iter(range(10**6))
    patch.setattr(cache, "digest", lambda pixels: f"{next(numbers):032x}")


def resize_otherwise_in_prediction(patch: Patch) -> None:
    other = types.ModuleType("images")
    vars(other).update(vars(signsclf.images))
    other.resize = lambda image, size: signsclf.images.resize(image.rotate(180), size)
    patch.setattr(signsclf.inference.classifier, "images", other)


def unpickle_checkpoints(patch: Patch) -> None:
    real = torch.load
    patch.setattr(torch, "load", lambda *given, **more: real(*given, **{**more, "weights_only": False}))


def forget_the_optimizer_on_resuming(patch: Patch) -> None:
    patch.setattr("signsclf.training.fit.restore_optimizer", lambda *given: None)


def pass_every_graph(patch: Patch) -> None:
    patch.setattr(export, "compare", lambda path, expected, pixels: export.Parity(len(pixels), 0.0, 0))


def replace_whatever_exists(patch: Patch) -> None:
    for command in (cli_data, cli_predict):
        patch.setattr(command, "refuse_replacing", lambda *given, **more: None)


def list_what_was_written_here(patch: Patch) -> None:
    patch.setattr(outputs, "own_names", lambda files, open_file: set())


def ask_the_renderer_in_every_training(patch: Patch) -> None:
    real = building.dataloaders

    def dataloaders(*given, **more):
        from signsclf.training.synthetic import render_batch

        return real(*given, **{**more, "render": render_batch})

    patch.setattr(building, "dataloaders", dataloaders)


def import_pandas_to_predict(patch: Patch) -> None:
    run_first(
        patch,
        """
from signsclf.inference.classifier import Classifier
real = Classifier.__init__
def init(*given, **more):
    import pandas
    real(*given, **more)
Classifier.__init__ = init
""",
    )


def predict_nothing(patch: Patch) -> None:
    run_first(patch, "import signsclf.cli.app\nsignsclf.cli.app.main = lambda: None\n")


def run_first(patch: Patch, code: str) -> None:
    """Runs code at the start of the processes in which imports are looked at."""
    real = test_cli.modules_after
    patch.setattr(test_cli, "modules_after", lambda checked: real(code + checked))


# -- what notices them -----------------------------------------------------------------------------------------------

PROMISES: list[tuple[str, Callable[[Patch], None], Callable[..., None]]] = [
    (
        "a group is on one side of the split",
        split_images_one_by_one,
        test_split.test_groups_stay_whole_and_every_class_keeps_training_images,
    ),
    (
        "figures come from the exported file",
        take_figures_from_the_network,
        test_train.test_figures_come_from_the_exported_file,
    ),
    (
        "n counts distinct images",
        count_repeated_images_as_distinct,
        test_evaluate.test_repeated_images_count_once_in_the_distinct_n_and_in_the_resampled_interval,
    ),
    (
        "the same pixels everywhere",
        resize_otherwise_in_prediction,
        test_train.test_training_parity_check_evaluation_and_prediction_see_the_same_pixels,
    ),
    (
        "nothing is unpickled",
        unpickle_checkpoints,
        test_fit.test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run,
    ),
    (
        "a resumed run is the unbroken one",
        forget_the_optimizer_on_resuming,
        test_fit.test_a_broken_run_ends_in_the_weights_of_the_unbroken_one,
    ),
    (
        "no model without its parity check",
        pass_every_graph,
        test_onnx.test_a_graph_that_answers_otherwise_is_refused_and_nothing_is_written,
    ),
    (
        "an input is never replaced",
        replace_whatever_exists,
        test_outputs.TestReplacing().test_predict_replaces_no_image_list_or_table,
    ),
    (
        "what the program wrote is never data",
        list_what_was_written_here,
        test_outputs.TestWhatItWroteIsNoData().test_a_model_folder,
    ),
    (
        "photographs never meet the renderer",
        ask_the_renderer_in_every_training,
        test_train.test_photographs_never_meet_the_renderer,
    ),
    (
        "prediction imports no torch or pandas",
        import_pandas_to_predict,
        test_cli.test_predict_imports_neither_torch_nor_pandas,
    ),
    (
        "prediction imports no torch, and predicts",
        predict_nothing,
        test_cli.test_predict_imports_neither_torch_nor_pandas,
    ),
]
PARAMETERS = {"settings": PLAIN, "batches": 5}
"""Of checks that are parametrised: one of the suite's own choices."""
NOTICED = (AssertionError, pytest.fail.Exception, SignsclfError)
"""What a check that notices ends with: its own words, or those of the program, which stumbles over the fault."""


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "check"), [row[1:] for row in PROMISES], ids=[row[0] for row in PROMISES])
def test_the_suite_notices(fault, check, request, monkeypatch):
    asked = [] if hasattr(check, "hypothesis") else inspect.signature(check).parameters
    given = {name: PARAMETERS[name] if name in PARAMETERS else request.getfixturevalue(name) for name in asked}
    fault(monkeypatch)
    with one_thread(), pytest.raises(NOTICED):
        check(**given)
