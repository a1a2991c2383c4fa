"""Golden outputs: a few images in the model folder with their probabilities, to verify that it still gives them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, ModelError
from signsclf.files import write_atomic
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import RUN, parse_json, read_text

REPLAY = "replay"
MAX_IMAGES = 100


def store_golden(folder: str | Path, pixels: np.ndarray, probabilities: np.ndarray) -> None:
    """Write run/replay/NNN.png and, at the end, run/replay.json.

    Args:
        pixels: uint8 RGB (N, height, width, 3) at the model's size, N from 1 to `MAX_IMAGES`.
        probabilities: (N, classes), as the exported model gave them.

    Raises:
        ModelError: a file cannot be written.
        ValueError: the arrays do not go together.
    """
    if not 1 <= len(pixels) == len(probabilities) <= MAX_IMAGES:
        raise ValueError(f"{len(pixels)} images, {len(probabilities)} rows: not 1 to {MAX_IMAGES} of both")
    below = Path(folder) / RUN / REPLAY
    try:
        if below.exists():
            shutil.rmtree(below)
        below.mkdir(parents=True)
        for number, image in enumerate(pixels):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            write_atomic(below / f"{number:03}.png", data.getvalue(), ModelError)
    except OSError as error:
        raise ModelError(f"{below}: cannot be written ({error.strerror or error})") from error
    text = json.dumps({"probabilities": np.asarray(probabilities, dtype=np.float64).tolist()}, allow_nan=False)
    write_atomic(below.with_suffix(".json"), text.encode(), ModelError)


def noise_images(n: int, size: tuple[int, int]) -> np.ndarray:
    """Make images of random coarse colours, uint8 (n, H, W, 3), which disclose nothing of the training images."""
    coarse = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)
    return np.stack([images.resize(Image.fromarray(picture), size) for picture in coarse])


def check_golden(classifier: Classifier, folder: str | Path) -> float:
    """Predict the stored images again, and return the largest difference of any probability from the stored one.

    Raises:
        ModelError: none are stored, or what is stored is damaged.
    """
    path = Path(folder) / RUN / f"{REPLAY}.json"
    if not path.is_file():
        raise ModelError(f"{path}: missing, so the outputs cannot be verified; export the model again")
    stored = parse_json(read_text(path), str(path))
    rows = stored.get("probabilities") if isinstance(stored, dict) else None
    try:
        expected = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        expected = np.empty(0)
    if expected.ndim != 2 or not 1 <= len(expected) <= MAX_IMAGES or expected.shape[1] != len(classifier.labels):
        raise ModelError(f"{path}: not probabilities for the classes of this model; export it again")
    if not np.isfinite(expected).all():
        raise ModelError(f"{path}: holds NaN or infinity; export the model again")
    below = path.with_suffix("")
    try:
        pixels = [images.load(below / f"{number:03}.png", classifier.size) for number in range(len(expected))]
    except BadImageError as error:
        raise ModelError(f"{error}; export the model again") from error
    return float(np.abs(classifier.probabilities(np.stack(pixels)) - expected).max())
