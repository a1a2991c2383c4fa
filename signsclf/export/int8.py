"""Quantize the exported graph to 8-bit weights and activations: model.int8.onnx, kept if it is nearly as accurate.

A refusal or a failure is a result, and no error: the model folder is complete without the file.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from signsclf.data.pixels import Pixels
from signsclf.errors import first_line
from signsclf.export.verify import seconds_a_run
from signsclf.inference.classifier import Classifier
from signsclf.model import folder as modelfolder

ACCURACY_LOSS = 0.003
"""Largest loss of accuracy, as a share of the images, with which the file is kept."""
CALIBRATION_IMAGES = 256
_CHUNK = 1_024


@dataclass(frozen=True)
class QuantizationResult:
    """The result of quantization: the 8-bit file against the fp32 one, on the same images and machine.

    Attributes:
        result: "written"; "refused", because it loses too much; or "failed".
        reason: why, in a few words; for a written file what it loses.
        n: images evaluated.
        accuracy, accuracy_fp32: 0 to 1; None where it failed, as are those that follow.
        images_per_second, images_per_second_fp32: in batches of images already decoded.
    """

    result: str
    reason: str
    n: int
    accuracy: float | None = None
    accuracy_fp32: float | None = None
    images_per_second: float | None = None
    images_per_second_fp32: float | None = None

    def __str__(self) -> str:
        return f"int8: {self.result}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as JSON values."""
        return asdict(self)


class _Reader:
    """Batches for onnxruntime's calibration, which asks for the next one until it gets None."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches = iter([{"image": pixels[i : i + 32]} for i in range(0, len(pixels), 32)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def write_int8(
    folder: Path,
    config: modelfolder.Config,
    calibration: np.ndarray,
    pixels: Pixels,
    targets: np.ndarray,
    force: bool = False,
) -> QuantizationResult:
    """Write model.int8.onnx by static quantization, with weights per channel (Jacob et al. 2018, arXiv:1712.05877).

    Args:
        folder: with model.onnx in place; config.json and SHA256SUMS may be still to come.
        config: what config.json says, or will say.
        calibration: uint8 (N, H, W, 3) training images that the ranges of activations are taken from.
        pixels: uint8 (M, H, W, 3), M ≥ 1, and ``targets``, int (M,): what both files are evaluated on.
        force: keep it however much it loses.

    Returns:
        The result; unless it is "written", there is no file.
    """
    path = folder / modelfolder.ONNX_INT8
    try:
        _quantize(folder / modelfolder.ONNX, path, calibration)
        fp32 = Classifier(folder, config=config)
        int8 = Classifier(folder, config=config, file=modelfolder.ONNX_INT8)
        right, right_fp32 = (_accuracy(classifier, pixels, targets) for classifier in (int8, fp32))
        lost = 100 * (right_fp32 - right)
        refused = right_fp32 - right > ACCURACY_LOSS and not force
        limit = f", limit {100 * ACCURACY_LOSS:g}" if refused else f" (n = {len(pixels):,})"
        batch = pixels[: fp32.batch_size]
        found = QuantizationResult(
            "refused" if refused else "written",
            f"{abs(lost):.2f} points {'lost' if lost >= 0 else 'gained'}{limit}",
            len(pixels),
            right,
            right_fp32,
            len(batch) / seconds_a_run(int8, batch),
            len(batch) / seconds_a_run(fp32, batch),
        )
    # The quantizer raises whatever its graph passes meet.
    except Exception as error:
        found = QuantizationResult("failed", first_line(error)[:160], len(pixels))
    if found.result != "written":
        path.unlink(missing_ok=True)
    return found


def _accuracy(classifier: Classifier, pixels: Pixels, targets: np.ndarray) -> float:
    parts = [slice(start, start + _CHUNK) for start in range(0, len(pixels), _CHUNK)]
    hits = [classifier.probabilities(pixels[part]).argmax(1) == targets[part] for part in parts]
    return float(np.mean(np.concatenate(hits)))


def _quantize(source: Path, target: Path, calibration: np.ndarray) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from signsclf.inference import runtime  # noqa: F401  (before anything of onnxruntime)

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Reader(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logging.root.setLevel(level)
