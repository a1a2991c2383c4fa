from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodel import config

from signsclf.errors import ModelError
from signsclf.files import file_hash
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import WEIGHTS, read_config, write_config, write_sums
from signsclf.recipe import Recipe
from signsclf.training.architectures import create, find_architecture
from signsclf.training.teachers import Teachers, find_teachers

CLASSES = ("red", "green", "blue")
OWN = find_architecture("signnet")


def write_teacher(folder, *, classes=CLASSES, size=16, seed=0, **changes):
    """A model folder of a linear network of random weights, without its ONNX file."""
    folder.mkdir()
    torch.manual_seed(seed)
    network = create(find_architecture("logistic-regression"), len(classes), size)
    save_file(network.state_dict(), folder / WEIGHTS)
    values = {"architecture": "logistic-regression", "classes": classes, "input_size": (size, size)}
    write_config(folder, config(**{**values, "mean": OWN.mean, "std": OWN.std, **changes}))
    write_sums(folder)
    return folder


def of(*teachers, **changes) -> Recipe:
    values = {"size": 16, "precision": "fp32", "device": "cpu", **changes}
    return Recipe(teacher=[str(folder) for folder in teachers], **values)


def answers(*teachers, view, classes=CLASSES, temperature=1.0):
    recipe = of(*teachers)
    return Teachers(find_teachers(recipe, classes), recipe, OWN, classes)(view, temperature)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (OWN.mean, OWN.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


VIEW = torch.randn(4, 3, 16, 16)


def test_a_teacher_answers_as_its_exported_file_does(model):
    own = read_config(model)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    # Another normalisation than the teacher's: it sees the same pixels.
    found = answers(model, view=normalised(pixels), classes=own.classes)
    assert np.allclose(found.numpy(), Classifier(model).probabilities(pixels), atol=1e-4)
    sharp = answers(model, view=normalised(pixels), classes=own.classes, temperature=0.5)
    assert (sharp.max(1).values >= found.max(1).values).all() and not torch.allclose(sharp, found)


def test_classes_are_matched_by_name_in_any_order(tmp_path):
    one = write_teacher(tmp_path / "one")
    order = ("blue", "red", "green")
    found = answers(one, view=VIEW, classes=order)
    columns = [CLASSES.index(name) for name in order]
    assert torch.allclose(found, answers(one, view=VIEW)[:, columns], atol=1e-6)
    assert not torch.allclose(found, answers(one, view=VIEW), atol=1e-3)


def test_normalisation_and_size_are_the_teachers_own(tmp_path):
    same = write_teacher(tmp_path / "same")
    other = write_teacher(tmp_path / "other", mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    scaled = (VIEW * torch.tensor(OWN.std).view(1, 3, 1, 1) + torch.tensor(OWN.mean).view(1, 3, 1, 1)).sub(
        torch.tensor((0.1, 0.2, 0.3)).view(1, 3, 1, 1)
    ) / torch.tensor((0.5, 0.4, 0.3)).view(1, 3, 1, 1)
    assert torch.allclose(answers(other, view=VIEW), answers(same, view=scaled), atol=1e-5)
    # One colour all over is the same picture at every size.
    large = write_teacher(tmp_path / "large", size=24)
    flat = torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1)
    assert torch.allclose(
        answers(large, view=flat.expand(1, 3, 16, 16)), answers(large, view=flat.expand(1, 3, 24, 24)), atol=1e-5
    )


def test_several_teach_by_the_mean_of_their_probabilities(tmp_path):
    folders = [write_teacher(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    each = [answers(folder, view=VIEW) for folder in folders]
    both = answers(*folders, view=VIEW)
    assert torch.allclose(both, (each[0] + each[1]) / 2)
    assert torch.allclose(both.sum(1), torch.ones(4))


def test_asking_leaves_no_gradient_and_moves_no_statistics(model):
    recipe = of(model)
    teachers = Teachers(find_teachers(recipe, read_config(model).classes), recipe, OWN, read_config(model).classes)
    network = teachers.members[0][0]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert not teachers(VIEW, 2.0).requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_weights_are_pinned_by_their_digest(tmp_path):
    folder = write_teacher(tmp_path / "one")
    found = find_teachers(of(folder), CLASSES)[0]
    assert found.pinned == f"{folder}@sha256:{file_hash(folder / WEIGHTS)}"
    assert find_teachers(of(found.pinned), CLASSES)[0] == found
    state = load_file(folder / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in state.items()}, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"--teacher .*model.safetensors: changed .*; put back"):
        find_teachers(of(found.pinned), CLASSES)
    write_sums(folder)
    with pytest.raises(ModelError, match="its weights are not those of SHA-256"):
        find_teachers(of(found.pinned), CLASSES)
    assert find_teachers(of(folder), CLASSES)[0].sha256 != found.sha256
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"--teacher .*no such model folder.*; put back the one that the training"):
        find_teachers(of(found.pinned), CLASSES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("red", "green")}, "does not know 'blue'"),
        ({"classes": (*CLASSES, "white")}, "also knows 'white'"),
        ({"crop": "roi"}, "--crop roi"),
    ],
)
def test_who_cannot_teach_is_refused_in_one_line(tmp_path, changes, said):
    folder = write_teacher(tmp_path / "one", **changes)
    with pytest.raises(ModelError, match=said) as caught:
        find_teachers(of(folder), CLASSES)
    assert str(caught.value).startswith("--teacher ") and "\n" not in str(caught.value)
