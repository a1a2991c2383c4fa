from __future__ import annotations

import pytest
import torch

from signsclf.errors import ModelError
from signsclf.recipe import COMPARED_ARCHITECTURES, Solver
from signsclf.training.architectures import (
    body_and_head,
    classifier_name,
    count_parameters,
    create,
    find_architecture,
    is_normalised,
)
from signsclf.training.networks import OWN


@pytest.mark.parametrize("name", OWN)
def test_own_networks_are_built_for_their_sizes_and_cut_in_two(name):
    arch = find_architecture(name)
    for size in {arch.smallest_size, 32, min(arch.largest_size, 64)}:
        torch.manual_seed(0)
        model = create(arch, 5, size).eval()
        body, head = body_and_head(model, arch)
        x = torch.randn(2, 3, size, size)
        with torch.inference_mode():
            assert model(x).shape == (2, 5)
            assert torch.equal(head(body(x)), model(x))
        assert classifier_name(model, 5) == "fc"
        assert [id(p) for p in (*body.parameters(), *head.parameters())] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("name", ["signnet", "signnet-fast"])
def test_light_and_fog_hardly_change_what_the_small_nets_answer(name):
    torch.manual_seed(0)
    model = create(find_architecture(name), 5, 32).eval()
    x = torch.nn.functional.interpolate(torch.randn(8, 3, 4, 4), 32)
    with torch.inference_mode():
        plain, dark, other = model(x), model(0.3 * x - 1.5), model(x.flip(0))
    assert (dark - plain).abs().max() < 0.1 * (other - plain).abs().max()


@pytest.mark.parametrize(("name", "size"), [("mlp", 65), ("linear-regression", 4096), ("simple-cnn", 8)])
def test_sizes_that_they_are_not_built_for_are_refused_before_any_memory_is_taken(name, size):
    with pytest.raises(ModelError, match=rf"--size {size}: {name} is built for \d+ to \d+ px"):
        create(find_architecture(name), 5, size)


def test_the_simple_cnn_is_the_tutorials():
    model = create(find_architecture("simple-cnn"), 10, 32)
    assert sum(p.numel() for p in model.parameters()) == 62_006


def test_what_normalises_is_told_apart():
    normalised = {name for name in COMPARED_ARCHITECTURES if is_normalised(find_architecture(name))}
    assert normalised == {"vgg16_bn", "resnet18", "resnet34", "tf_efficientnet_lite0", "signnet"}
    assert is_normalised(find_architecture("vit_tiny_patch16_224"))


@pytest.mark.parametrize("name", ["mlp", "resnet18", "mobilenetv3_small_050"])
def test_parameters_are_counted(name):
    arch = find_architecture(name)
    assert count_parameters(arch, 5, 32) == sum(p.numel() for p in create(arch, 5, 32).parameters())


def test_every_rung_is_known_and_says_what_it_runs_at():
    found = {name: find_architecture(name) for name in COMPARED_ARCHITECTURES}
    assert found["alexnet"].smallest_size == 63
    assert found["vgg16_bn"].smallest_size == 32
    assert found["linear-regression"].solver is Solver.LEAST_SQUARES
    assert found["numpy-mlp"].solver is Solver.NUMPY
    others = set(COMPARED_ARCHITECTURES) - {"linear-regression", "numpy-mlp"}
    assert {found[name].solver for name in others} == {Solver.GRADIENT}
