from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from signsclf.export import graphs

SIZE = 4


class Network(nn.Module):
    """Images to logits; ``shift`` is a buffer that is no part of the state."""

    def __init__(self, activation: nn.Module, seed: int = 0, shift: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.activation = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation
        self.fc = nn.Linear(8, 2)
        if shift is not None:
            self.register_buffer("shift", torch.full((2,), shift), persistent=False)
        self.train()(torch.randint(0, 256, (16, SIZE, SIZE, 3), dtype=torch.uint8))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm(self.conv(image.permute(0, 3, 1, 2).float() / 255)))
        logits = self.fc(x.mean((2, 3)))
        return logits + self.shift if hasattr(self, "shift") else logits


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that were captured, in a process that has captured none before."""
    made: list[nn.Module] = []
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda module, *a, **k: (made.append(module), real(module, *a, **k))[1])
    monkeypatch.setattr(graphs, "_captured", {})
    return made


def assert_answers(module: nn.Module, path: Path) -> ir.Model:
    model = graphs.graph(module, SIZE, ["logits"])
    ir.save(model, path)
    for n in (1, 3):
        pixels = np.random.default_rng(n).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)
        (found,) = onnxruntime.InferenceSession(str(path)).run(["logits"], {"image": pixels})
        with torch.inference_mode():
            assert np.allclose(found, module(torch.from_numpy(pixels)).numpy(), atol=1e-4)
    return model


def test_networks_of_one_kind_are_captured_once_and_each_answers_with_its_own_weights(captures, tmp_path):
    for seed in (0, 1, 2):
        model = assert_answers(Network(nn.ReLU(), seed), tmp_path / "graph.onnx")
        assert not any(node.metadata_props for node in model.graph)
    assert len(captures) == 1
    (kept,) = graphs._captured.values()
    assert sum(len(tensor.raw_data) for tensor in kept.graph.initializer) <= 8 * len(kept.graph.initializer)


def test_networks_that_differ_in_a_setting_or_in_size_are_captured_each(captures, tmp_path):
    for activation in (nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)):
        assert_answers(Network(activation), tmp_path / "graph.onnx")
    graphs.graph(Network(nn.ReLU()), SIZE + 1, ["logits"])
    assert len(captures) == 4


def test_what_is_no_part_of_the_state_is_captured_with_each_network(captures, tmp_path):
    for shift in (1.0, 5.0):
        assert_answers(Network(nn.ReLU(), shift=shift), tmp_path / "graph.onnx")
    assert len(captures) == 2
