"""model.int8.onnx: the exported graph with 8-bit weights and activations, kept only if it answers nearly as well."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from signsclf import modelfolder
from signsclf.errors import GateError, ModelError
from signsclf.predict import Classifier
from signsclf.reload import seconds_a_run

ACCURACY_LOSS = 0.003
"""Share of the images by which int8 may be right less often."""
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Int8:
    """The 8-bit file beside the fp32 one, on the same images and the same machine.

    Attributes:
        n: images judged.
        accuracy, accuracy_fp32: 0 to 1.
        images_per_second, images_per_second_fp32: in batches of images already decoded.
    """

    n: int
    accuracy: float
    accuracy_fp32: float
    images_per_second: float
    images_per_second_fp32: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


class _Reader:
    """Feeds onnxruntime's calibration; it asks for one batch after the other until None."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches = iter([{"image": pixels[i : i + 32]} for i in range(0, len(pixels), 32)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def write_int8(
    folder: Path, calibration: np.ndarray, judged: np.ndarray, targets: np.ndarray, force: bool = False
) -> Int8:
    """Writes model.int8.onnx beside model.onnx: static quantization, weights by channel (Jacob et al. 2018).

    Args:
        folder: with config.json, SHA256SUMS and model.onnx in place.
        calibration: uint8 (N, H, W, 3) training images that the ranges of activations are taken from.
        judged: uint8 (M, H, W, 3), M ≥ 1, and ``targets``, int (M,): what both files are judged on.
        force: keep it however much it loses.

    Raises:
        GateError: it loses over `ACCURACY_LOSS`; then it is not there.
        ModelError: the graph cannot be quantized.
    """
    path = folder / modelfolder.ONNX_INT8
    try:
        _quantize(folder / modelfolder.ONNX, path, calibration)
    # The quantizer raises whatever its graph passes meet.
    except Exception as error:
        path.unlink(missing_ok=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ModelError(f"--int8: this architecture cannot be quantized ({reason}); leave --int8 out") from error
    modelfolder.write_sums(folder)
    fp32, int8 = Classifier(folder), Classifier(folder, file=modelfolder.ONNX_INT8)
    batch = judged[: fp32.batch_size]
    found = Int8(
        n=len(judged),
        accuracy=float(np.mean(int8.probabilities(judged).argmax(1) == targets)),
        accuracy_fp32=float(np.mean(fp32.probabilities(judged).argmax(1) == targets)),
        images_per_second=len(batch) / seconds_a_run(int8, batch),
        images_per_second_fp32=len(batch) / seconds_a_run(fp32, batch),
    )
    if found.accuracy_fp32 - found.accuracy > ACCURACY_LOSS and not force:
        path.unlink()
        raise GateError(
            f"--int8: right on {100 * found.accuracy:.2f} % of {found.n:,} images, fp32 on "
            f"{100 * found.accuracy_fp32:.2f} %: over {100 * ACCURACY_LOSS:g} points lost; leave --int8 out, "
            "or give --force-int8"
        )
    return found


def _quantize(source: Path, target: Path, calibration: np.ndarray) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from signsclf import runtime  # noqa: F401  (before anything of onnxruntime)

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
