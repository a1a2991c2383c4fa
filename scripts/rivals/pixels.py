"""The network and the pixels that all servers of the benchmark share: ONNX Runtime with one thread, and Pillow."""

from __future__ import annotations

import io
import os

import numpy as np
import onnxruntime
from PIL import Image


class Network:
    """A model folder's network."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = os.environ["BENCH_MODEL"] + "/model.onnx"
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.size = self.session.get_inputs()[0].shape[1]

    def decode(self, data: bytes) -> np.ndarray:
        """Decode and resize an encoded image: uint8 (size, size, 3)."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def probabilities(self, rows: list[np.ndarray]) -> np.ndarray:
        """Run the network: float32 (N, classes)."""
        (logits,) = self.session.run(["logits"], {"image": np.stack(rows)})
        logits = np.exp(logits - logits.max(axis=1, keepdims=True))
        return logits / logits.sum(axis=1, keepdims=True)


def best(row: np.ndarray) -> dict[str, object]:
    """Make the answer: the five most probable classes."""
    order = np.argsort(-row)[:5]
    return {"top_k": [{"label": str(i), "probability": float(row[i])} for i in order]}
