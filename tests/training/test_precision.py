import pytest
import torch
from drawnshapes import learner, network, recipe
from torch import nn

from signsclf.recipe import Precision
from signsclf.training.fit import Fit, find_lr
from signsclf.training.precision import Autocast, flushed_denormals


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Conv2d(8, 4, 3))


def test_a_depthwise_convolution_is_trained_in_fp32_between_layers_in_bf16():
    model, reference = small(), small()
    x = torch.randn(2, 3, 12, 12)
    inputs = {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda m, given, out, name=name: inputs.update({name: given[0].detach()}))

    with Autocast("cpu", Precision.BF16).context(model):
        out = model(x)
    assert out.dtype is torch.bfloat16
    assert "forward" not in vars(model[1])
    assert inputs["1"].dtype is inputs["2"].dtype is torch.bfloat16

    exact = reference[1](inputs["1"].float())
    assert torch.equal(inputs["2"], exact.detach().to(torch.bfloat16))
    # In fp32 its gradient is that of the same products summed in fp32, to the last bits.
    gradient = torch.randn_like(exact)
    model[1].zero_grad()
    with Autocast("cpu", Precision.BF16).context(model):
        again = model[1](inputs["1"].requires_grad_())
    again.backward(gradient.to(torch.bfloat16))
    exact.backward(gradient.to(torch.bfloat16).float())
    torch.testing.assert_close(model[1].weight.grad, reference[1].weight.grad)


def test_a_depthwise_convolution_that_is_not_trained_stays_in_bf16():
    model = small().requires_grad_(False)
    x = torch.randn(2, 8, 12, 12)
    with Autocast("cpu", Precision.BF16).context(model):
        frozen = model[1](x)
    expected = torch.nn.functional.conv2d(x.bfloat16(), model[1].weight.bfloat16(), groups=8)
    assert torch.equal(frozen, expected)


def test_an_fp32_input_gives_what_autocast_gives():
    model = small()
    with Autocast("cpu", Precision.BF16).context(model):
        assert model[1](torch.randn(2, 8, 12, 12)).dtype is torch.bfloat16


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP32])
def test_a_model_is_left_as_it_was(precision):
    model = small()
    with pytest.raises(RuntimeError), Autocast("cpu", precision).context(model):
        model(torch.randn(1, 5, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    assert model(torch.randn(1, 3, 8, 8)).dtype is torch.float32
    assert all("forward" not in vars(layer) for layer in model)


def test_a_training_that_fails_leaves_no_arithmetic_behind():
    of = recipe(precision="bf16", epochs=1)
    model = network()
    built = learner(of, model)

    def fail() -> None:
        raise ArithmeticError("in the forward pass")

    next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).register_forward_pre_hook(
        lambda *_: fail()
    )
    for run in (Fit(built, model, of).run, lambda: find_lr(built, of)):
        with pytest.raises(ArithmeticError):
            run()
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_for_a_while_and_the_callers_setting_comes_back(before: bool):
    def flushes() -> bool:
        return not (torch.full((1,), 2e-38) / 4).item()

    torch.set_flush_denormal(before)
    try:
        with flushed_denormals():
            assert flushes()
        assert flushes() is before
    finally:
        torch.set_flush_denormal(False)
