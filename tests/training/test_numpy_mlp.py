"""The network in NumPy against the same network in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from signsclf.training.networks import perceptron
from signsclf.training.numpy_mlp import Parameters, backward, cross_entropy, forward, update


def network(n_classes: int, size: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return perceptron(n_classes, size, hidden=20)


def copied(model: nn.Module) -> Parameters:
    return Parameters(*(p.detach().numpy().copy() for p in model.parameters()))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_classes=st.integers(2, 12),
    batch=st.integers(1, 33),
    lr=st.sampled_from([0.001, 0.02, 0.1]),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 5e-4, 0.1]),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_losses_gradients_and_updated_parameters_equal_pytorchs(
    seed, n_classes, batch, lr, momentum, weight_decay, smoothing
):
    model = network(n_classes, 5, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    parameters = copied(model)
    velocities = Parameters(*map(np.zeros_like, parameters))
    for _ in range(5):
        x, y = torch.randn(batch, 3, 5, 5), torch.randint(n_classes, (batch,))
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad.numpy() for p in model.parameters()]

        targets = np.eye(n_classes, dtype=np.float32)[y] * (1 - smoothing) + np.float32(smoothing / n_classes)
        pixels = x.flatten(1).numpy()
        hidden, logits = forward(parameters, pixels)
        ours, softmax = cross_entropy(logits, targets)
        own_gradients = backward(parameters, pixels, hidden, softmax, targets)
        assert ours == pytest.approx(loss.item(), abs=1e-5)
        for own, theirs in zip(own_gradients, gradients, strict=True):
            assert own.shape == theirs.shape
            np.testing.assert_allclose(own, theirs, atol=1e-5)

        optimizer.step()
        update(parameters, own_gradients, velocities, lr, momentum, weight_decay)
        for own, theirs in zip(parameters, model.parameters(), strict=True):
            np.testing.assert_allclose(own, theirs.detach().numpy(), atol=1e-5)


def test_the_gradient_is_the_slope_of_the_loss():
    rng = np.random.default_rng(0)
    parameters = Parameters(*(rng.normal(size=shape) for shape in [(4, 6), (4,), (3, 4), (3,)]))
    x, targets = rng.normal(size=(7, 6)), np.eye(3)[rng.integers(3, size=7)]

    def loss() -> float:
        return cross_entropy(forward(parameters, x)[1], targets)[0]

    hidden, logits = forward(parameters, x)
    gradients = backward(parameters, x, hidden, cross_entropy(logits, targets)[1], targets)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        at = (0,) * parameter.ndim
        before = parameter[at]
        parameter[at] = before + 1e-6
        above = loss()
        parameter[at] = before - 1e-6
        below = loss()
        parameter[at] = before
        assert gradient[at] == pytest.approx((above - below) / 2e-6, abs=1e-7)


def test_large_logits_do_not_overflow():
    loss, softmax = cross_entropy(np.array([[1e4, -1e4]]), np.array([[0.0, 1.0]]))
    assert loss == pytest.approx(2e4)
    assert softmax.tolist() == [[1.0, 0.0]]
