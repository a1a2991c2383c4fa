import copy

import pytest
import torch
from torch import nn

from signsclf.recipe import Precision
from signsclf.training.arithmetic import Autocast


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
    assert inputs["1"].dtype is inputs["2"].dtype is torch.bfloat16

    exact = reference[1](inputs["1"].float())
    assert torch.equal(inputs["2"], exact.detach().to(torch.bfloat16))
    out.float().square().mean().backward()
    assert model[1].weight.grad.dtype is torch.float32
    assert model[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("device", "precision"), [("cpu", Precision.BF16), ("cpu", Precision.FP32)])
def test_a_model_is_left_as_it_was(device, precision):
    model = small()
    with pytest.raises(RuntimeError), Autocast(device, precision).context(model):
        model(torch.randn(1, 5, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    assert model(torch.randn(1, 3, 8, 8)).dtype is torch.float32
    assert all("forward" not in vars(layer) for layer in copy.deepcopy(model))
