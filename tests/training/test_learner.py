from __future__ import annotations

import numpy as np
import pytest
import torch
from drawnshapes import CLASSES, TINY, draw, learner, loaders, network, recipe
from fastai.optimizer import Adam
from PIL import Image
from safetensors.torch import save_file

from signsclf.errors import ModelError, SignsclfError
from signsclf.model.folder import CONFIG, WEIGHTS, Config, write_config, write_sums
from signsclf.recipe import Device
from signsclf.training.architectures import create, find_architecture
from signsclf.training.learner import build_learner, choose_device, load_learner, stock_learner


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_training_changes_the_network_itself_in_place():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    built = learner(recipe(), model)
    with built.no_bar(), built.no_logging():
        built.fit(2, lr=0.1)
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == set(before)


def test_from_scratch_nothing_is_frozen():
    model = network()
    learner(recipe(), model)
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_pretrained_begins_with_only_the_head_trained():
    model = network()
    built = learner(recipe(weights="imagenet"), model)
    assert trainable(model) == {"fc.weight", "fc.bias"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with built.no_bar(), built.no_logging():
        built.fit(1)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == {"fc.weight", "fc.bias"}
    built.unfreeze()
    assert trainable(model) == set(before)


def test_learning_rates_rise_from_the_first_layers_to_the_head():
    built = learner(recipe(weights="imagenet", optimizer="adam"), network())
    built.unfreeze()
    built.opt.set_hyper("lr", slice(1e-4, 1e-2))
    assert [round(h["lr"], 6) for h in built.opt.hypers] == [1e-4, 1e-3, 1e-2]
    assert built.opt_func is Adam


def test_the_loss_is_smoothed_as_the_recipe_says():
    built = learner(recipe(label_smoothing=0.3), network())
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.3)
    assert torch.equal(built.loss_func(logits, targets), expected)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18"])
def test_other_families_train_in_place_too(name):
    arch = find_architecture(name)
    model = create(arch, 3)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    of = recipe(arch=name)
    built = build_learner(loaders(of, 32, 8), model, arch, of)
    with built.no_bar(), built.no_logging():
        built.fit(1, lr=0.1)
    assert not any(torch.equal(p, before[n]) for n, p in model.named_parameters() if p.ndim == 4)


@pytest.mark.parametrize(
    ("name", "size"),
    [("alexnet", 64), ("squeezenet1_1", 32), ("densenet121", 32), ("vit_tiny_patch16_224", 224), ("mlp", 32)],
)
def test_the_learner_trains_the_whole_network_wherever_its_pooling_is(name, size):
    arch = find_architecture(name)
    model = create(arch, 3, size)
    of = recipe(arch=name)
    built = build_learner(loaders(of, 32, 8), model, arch, of)
    assert {id(p) for p in built.model.parameters()} == {id(p) for p in model.parameters()}
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        assert torch.allclose(built.model.eval()(x), model.eval()(x), atol=1e-5)


def statistics(model: torch.nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in model.named_buffers() if "running" in name]


@pytest.mark.parametrize(
    ("batch_norm", "head_only", "moves"),
    [("train", True, False), ("keep", True, False), ("train", False, True), ("keep", False, False)],
)
def test_statistics_move_only_where_all_layers_train_and_nothing_keeps_them(batch_norm, head_only, moves):
    model = network()
    built = learner(recipe(weights="imagenet", batch_norm=batch_norm), model)
    if not head_only:
        built.unfreeze()
    before = statistics(model)
    with built.no_bar(), built.no_logging():
        built.fit(1, lr=0.01)
    assert all(torch.equal(*pair) for pair in zip(before, statistics(model), strict=True)) is not moves


def test_a_device_that_is_not_there_is_one_line():
    assert choose_device(Device.CPU) is Device.CPU
    for device, there in ((Device.CUDA, torch.cuda.is_available()), (Device.MPS, torch.backends.mps.is_available())):
        if not there:
            with pytest.raises(SignsclfError, match=f"--device {device.value}: torch finds none"):
                choose_device(device)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert choose_device(None) is Device.CPU


# -- the learner of a model folder -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A model folder's config.json and weights; the network has its full width, as its name says."""
    model = network(width=32).eval()
    save_file(model.state_dict(), tmp_path / WEIGHTS)
    config = Config("signnet", CLASSES, (16, 16), TINY.mean, TINY.std, recipe=recipe().to_dict())
    write_config(tmp_path, config)
    write_sums(tmp_path)
    return tmp_path, model


def test_a_folder_becomes_a_learner_that_answers_as_its_network(folder, tmp_path):
    path, model = folder
    pixels, _ = draw(2)
    Image.fromarray(pixels[0]).save(tmp_path / "one.png")
    loaded = load_learner(path)
    with loaded.no_bar(), loaded.no_logging():
        label, index, probabilities = loaded.predict(tmp_path / "one.png")
    x = (torch.from_numpy(pixels[:1]) / 255 - torch.tensor(TINY.mean)) / torch.tensor(TINY.std)
    with torch.inference_mode():
        expected = model(x.permute(0, 3, 1, 2)).softmax(1)[0]
    assert torch.allclose(probabilities, expected, atol=1e-5)
    assert label == CLASSES[int(index)]


def test_the_loaded_learner_is_ready_to_train_on(folder):
    loaded = load_learner(folder[0])
    loaded.dls = loaders(recipe(), 32, 8)
    before = loaded.model.fc.weight.detach().clone()
    with loaded.no_bar(), loaded.no_logging():
        loaded.fit(1, lr=0.1)
    assert not torch.equal(before, loaded.model.fc.weight)


def test_stock_learner_squishes_to_its_size(tmp_path):
    built = stock_learner(network().eval(), CLASSES, (16, 24), TINY.mean, TINY.std)
    Image.fromarray(np.zeros((50, 30, 3), np.uint8)).save(tmp_path / "tall.png")
    batch = built.dls.test_dl([tmp_path / "tall.png"]).one_batch()[0]
    assert batch.shape == (1, 3, 16, 24)
    assert list(built.dls.vocab) == list(CLASSES)


def test_tampered_weights_are_refused(folder):
    path, _ = folder
    data = bytearray((path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError):
        load_learner(path)


def test_weights_of_another_network_are_refused(folder):
    path, _ = folder
    save_file(network(width=8).state_dict(), path / WEIGHTS)
    write_sums(path)
    with pytest.raises(ModelError, match="not those of signnet"):
        load_learner(path)
    (path / CONFIG).unlink()
    with pytest.raises(ModelError):
        load_learner(path)
