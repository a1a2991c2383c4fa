"""A network with one hidden layer, written out in NumPy: forward pass, loss, back-propagation, update.

With n images of d values, h hidden units and c classes; weights lie as in torch's ``nn.Linear``, (outputs, inputs).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Parameters(NamedTuple):
    """Weights and biases of both layers; gradients and velocities have the same form."""

    hidden_weight: np.ndarray  # (h, d)
    hidden_bias: np.ndarray  # (h,)
    weight: np.ndarray  # (c, h)
    bias: np.ndarray  # (c,)


def forward(parameters: Parameters, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations of the hidden units (n, h), 0 or more, and logits (n, c), of images (n, d)."""
    hidden = np.maximum(x @ parameters.hidden_weight.T + parameters.hidden_bias, 0)
    return hidden, hidden @ parameters.weight.T + parameters.bias


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of -Σ target · log softmax(logits), and the softmax (n, c).

    Args:
        targets: (n, c), each row a distribution: one-hot, or smoothed.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-(targets * log_softmax).sum(axis=1).mean()), np.exp(log_softmax)


def backward(
    parameters: Parameters, x: np.ndarray, hidden: np.ndarray, softmax: np.ndarray, targets: np.ndarray
) -> Parameters:
    """Gradients of the mean cross-entropy: the chain rule from the logits back (Rumelhart, Hinton, Williams 1986)."""
    to_logits = (softmax - targets) / len(x)
    to_hidden = (to_logits @ parameters.weight) * (hidden > 0)
    return Parameters(to_hidden.T @ x, to_hidden.sum(axis=0), to_logits.T @ hidden, to_logits.sum(axis=0))


def update(
    parameters: Parameters,
    gradients: Parameters,
    velocities: Parameters,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> None:
    """One step of SGD with momentum and weight decay as torch's, in place: v = μv + g + λp, p = p - lr · v."""
    for parameter, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity *= momentum
        velocity += gradient + weight_decay * parameter
        parameter -= lr * velocity
