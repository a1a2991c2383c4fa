"""A model folder and images in, Predictions out. NumPy, Pillow and ONNX Runtime only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, ModelError, SignsclfError
from signsclf.listing import why_no_image
from signsclf.modelfolder import CARD, CONFIG, ONNX, Config, parse_json, read_config, read_text, verify_sums
from signsclf.paths import user_path
from signsclf.threads import usable_cores

Source = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""What an image may be given as; arrays are uint8 of H×W (grey), H×W×3 (RGB) or H×W×4 (RGBA)."""

READY_MADE = "gtsrb-signnet"
MAX_BATCH = 64
_BATCH_VALUES = 64 * 3 * 256 * 256  # 64 images of 256×256; larger ones come in smaller batches
_CHUNK = 8  # images a task: a task for each image would cost more than decoding a small one
_BATCHES_AHEAD = 3
_ANEW = "fetch or export the model again"


@dataclass(frozen=True)
class Prediction:
    """The answer for one image; checked at construction.

    Attributes:
        path: the image's path as it was given; "" for one that came without.
        label: the most probable class; None where the image could not be read.
        index: its place in ``Classifier.labels``.
        probability: its calibrated probability, 0 to 1.
        top_k: (label, probability), the most probable first.
        accepted: whether the probability reaches the model's reject threshold; None where it has none.
        error: why the image could not be read; None where it could.

    Raises:
        ValueError: the values contradict each other.
    """

    path: str
    label: str | None = None
    index: int | None = None
    probability: float | None = None
    top_k: tuple[tuple[str, float], ...] = ()
    accepted: bool | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        answer = (self.label, self.index, self.probability)
        if self.error is not None:
            if answer != (None, None, None) or self.top_k or self.accepted is not None:
                raise ValueError("a Prediction with an error has no answer")
            return
        if None in answer or self.index < 0 or not 0 <= self.probability <= 1:
            raise ValueError(f"{answer} is not a label, an index from 0 and a probability of 0 to 1")
        values = [probability for _, probability in self.top_k]
        if not values or self.top_k[0] != (self.label, self.probability) or values != sorted(values)[::-1]:
            raise ValueError("top_k starts with the label itself and goes down in probability")

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return asdict(self)


class Classifier:
    """An exported model, ready to predict; may be used from several threads at once.

    Attributes:
        config: what config.json says.
        labels: the classes, in the order of the outputs.
        size: (height, width) in pixels that the model takes.
        threads: how many processor threads it uses at most.
        batch_size: images in a batch, where the caller does not say.
    """

    def __init__(
        self, folder: str | Path, threads: int | None = None, *, device: str = "cpu", file: str = ONNX
    ) -> None:
        """Open a model folder; its config.json is checked against SHA256SUMS.

        Args:
            threads: 1 or more; None takes the processors that this process may use.
            device: "cpu", or "cuda" where ONNX Runtime was installed with it.
            file: the network's file in the folder.

        Raises:
            ModelError: the folder is missing, damaged or of an unknown version.
        """
        if threads is not None and threads < 1:
            raise SignsclfError(f"threads is {threads}, where it should be 1 or more")
        self.folder = user_path(folder, ModelError)
        self.config: Config = read_config(self.folder)
        verify_sums(self.folder, [CONFIG])
        self.labels = self.config.classes
        self.size = self.config.input_size
        self.threads = threads or usable_cores()
        height, width = self.size
        self.batch_size = max(1, min(MAX_BATCH, _BATCH_VALUES // (3 * height * width)))
        self._file = self.folder / file
        self._session = self._open(device)
        self._has_features = self._check_signature()

    @property
    def card(self) -> str:
        """The model card, in Markdown; "" where the folder has none."""
        path = self.folder / CARD
        return read_text(path) if path.is_file() else ""

    def predict(self, image: Source, top_k: int = 5) -> Prediction:
        """The classes of one image, the most probable first.

        Raises:
            BadImageError: the image cannot be read.
        """
        _check_top_k(top_k)
        pixels = images.resize(open_image(image), self.size)
        return self._predictions([_name(image)], self.probabilities(pixels[None]), top_k)[0]

    def predict_batch(self, images: Iterable[Source], top_k: int = 5) -> list[Prediction]:
        """One Prediction an image, in the order given; for one that cannot be read it holds the error."""
        if isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise SignsclfError("predict_batch takes a list of images; for a single one there is predict")
        return list(stream(self, images, top_k=top_k))

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Outputs of the last layer: float32 (N, classes), for uint8 RGB (N, height, width, 3) of `size`.

        Raises:
            ModelError: the network cannot be run on it, or gives values that are no numbers.
        """
        return self._run("logits", batch)

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 (N, classes), each row summing to 1; see `logits`."""
        logits = self.logits(batch).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        return logits / logits.sum(axis=1, keepdims=True)

    def features(self, batch: np.ndarray) -> np.ndarray | None:
        """The last feature map, float32 (N, channels, h, w); None where the network has none."""
        return self._run("features", batch) if self._has_features else None

    def _open(self, device: str) -> onnxruntime.InferenceSession:
        if not self._file.is_file():
            raise ModelError(f"{self._file}: not there; {_ANEW}")
        providers = ["CPUExecutionProvider"]
        if device == "cuda":
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise SignsclfError("cuda: this ONNX Runtime has none; install signsclf[gpu], or use the cpu")
            providers.insert(0, "CUDAExecutionProvider")
        elif device != "cpu":
            raise SignsclfError(f"device is {device!r}, where it should be cpu or cuda")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors come as exceptions; standard error is the caller's
        # Threads that wait for work by spinning would take the processor from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(self._file), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise ModelError(f"{self._file}: cannot be opened ({_line(error)}); {_ANEW}") from error

    def _check_signature(self) -> bool:
        """Refuse a network that is not the one that config.json tells of; whether it gives a feature map."""
        inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = {node.name: node for node in self._session.get_outputs()}
        image, logits = inputs.get("image"), outputs.get("logits")
        if (
            len(inputs) != 1
            or image is None
            or image.type != "tensor(uint8)"
            or len(image.shape) != 4
            or image.shape[1:] != [*self.size, 3]
            or isinstance(image.shape[0], int)
        ):
            height, width = self.size
            raise ModelError(f"{self._file}: its input is not images of uint8 (N, {height}, {width}, 3)")
        if logits is None or logits.type != "tensor(float)" or logits.shape[1:] != [len(self.labels)]:
            raise ModelError(f"{self._file}: its outputs are not logits for the {len(self.labels)} classes")
        metadata = self._session.get_modelmeta().custom_metadata_map
        if parse_json(metadata.get("labels", "null"), f"{self._file}: labels") != list(self.labels):
            raise ModelError(f"{self._file}: its labels are not those of {CONFIG}; {_ANEW}")
        return "features" in outputs and len(outputs["features"].shape) == 4

    def _run(self, output: str, batch: np.ndarray) -> np.ndarray:
        batch = np.asarray(batch)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (*self.size, 3):
            height, width = self.size
            raise ModelError(f"a batch should be uint8 (N, {height}, {width}, 3), and is {batch.dtype} {batch.shape}")
        try:
            # At least one run, so that no images give an array of the right shape.
            parts = [
                self._session.run([output], {"image": batch[start : start + self.batch_size]})[0]
                for start in range(0, max(len(batch), 1), self.batch_size)
            ]
        except Exception as error:
            raise ModelError(f"{self._file}: fails on a batch of {len(batch)} ({_line(error)})") from error
        result = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(result) != len(batch) or not np.isfinite(result).all():
            raise ModelError(f"{self._file}: gives {output} that are no numbers; {_ANEW}")
        return result

    def _predictions(self, paths: Sequence[str], probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        values = np.take_along_axis(probabilities, order, axis=1).tolist()
        threshold = self.config.reject_threshold
        return [
            Prediction(
                path=path,
                label=self.labels[indices[0]],
                index=indices[0],
                probability=row[0],
                top_k=tuple((self.labels[i], p) for i, p in zip(indices, row, strict=True)),
                accepted=None if threshold is None else row[0] >= threshold,
            )
            for path, indices, row in zip(paths, order.tolist(), values, strict=True)
        ]


def stream(
    classifier: Classifier,
    sources: Iterable[Source],
    *,
    top_k: int = 5,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Predictions for any number of images, in their order, in memory that does not grow with their number.

    Images are decoded in ``workers`` threads while the network runs, a few batches ahead of what has been
    yielded. An image that cannot be read gives a Prediction with its error. A model trained on crops
    (``config.crop`` "roi") takes each image as such a crop.

    Args:
        batch_size: images a run of the network; None takes the classifier's.
        workers: decoding threads; None takes the classifier's ``threads``.

    Raises:
        SignsclfError: a number is not 1 or more.
        ModelError: the network fails.
    """
    _check_top_k(top_k)
    batch_size = classifier.batch_size if batch_size is None else batch_size
    workers = classifier.threads if workers is None else workers
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise SignsclfError(f"{name} is {value}, where it should be 1 or more")
    return _stream(classifier, iter(sources), top_k, batch_size, workers)


def _stream(
    classifier: Classifier, sources: Iterator[Source], top_k: int, batch_size: int, workers: int
) -> Iterator[Prediction]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="signsclf-decode")
    waiting = deque()
    try:
        while True:
            while len(waiting) < _BATCHES_AHEAD and (batch := list(islice(sources, batch_size))):
                chunks = [batch[start : start + _CHUNK] for start in range(0, len(batch), _CHUNK)]
                tasks = [pool.submit(_pixels, chunk, classifier.size) for chunk in chunks]
                waiting.append(([_name(source) for source in batch], tasks))
            if not waiting:
                return
            names, tasks = waiting.popleft()
            decoded = [pixels for task in tasks for pixels in task.result()]
            good = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
            paths = [n for n, pixels in zip(names, decoded, strict=True) if isinstance(pixels, np.ndarray)]
            answers = iter(())
            if good:
                answers = iter(classifier._predictions(paths, classifier.probabilities(np.stack(good)), top_k))
            for name, pixels in zip(names, decoded, strict=True):
                yield next(answers) if isinstance(pixels, np.ndarray) else Prediction(name, error=pixels)
    finally:
        pool.shutdown(cancel_futures=True)


def open_image(source: Source) -> Image.Image:
    """An upright RGB image from whatever it is given as; see `Source`.

    Raises:
        BadImageError: it cannot be read, or is of another kind.
    """
    if isinstance(source, str | os.PathLike):
        name = str(user_path(_name(source), BadImageError))
        try:
            return images.decode(images.read(name), name)
        except BadImageError:
            why = why_no_image(name)
            if why is None:
                raise
            raise BadImageError(f"{name}: {why}") from None
    if isinstance(source, bytes | bytearray | memoryview):
        return images.decode(bytes(source))
    if isinstance(source, Image.Image):
        try:
            if 0 in source.size:
                raise BadImageError("no pixels")
            images.refuse_pixels(*source.size)
            source.load()  # one that was just opened is decoded only now
            return images.to_rgb(source)
        except BadImageError as error:
            raise BadImageError(f"image: {error}") from error
        except Exception as error:  # of many kinds, as in `images.decode`
            raise BadImageError(f"image: damaged or truncated ({_line(error)})") from error
    if isinstance(source, np.ndarray):
        shaped = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))
        if source.dtype != np.uint8 or not shaped or not 0 < source.size <= 4 * images.max_pixels():
            raise BadImageError(
                "image: an array should be uint8 of H×W, H×W×3 or H×W×4 with values from 0 to 255, "
                f"and is {source.dtype} of {'×'.join(map(str, source.shape))}"
            )
        return images.to_rgb(Image.fromarray(source))
    if hasattr(source, "read"):
        try:
            data = source.read(images.MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise BadImageError(f"image: the file object cannot be read ({_line(error)})") from error
        if not isinstance(data, bytes):
            raise BadImageError("image: the file object gives no bytes: open it in binary mode")
        if len(data) > images.MAX_BYTES:
            raise BadImageError(f"image: over {images.MAX_BYTES:,} bytes are too many")
        return images.decode(data)
    raise BadImageError(
        f"image: {type(source).__name__} is not a path, bytes, binary file, Pillow image or uint8 array"
    )


def find_model(explicit: str | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path, str]:
    """The model folder to use, and in words where it comes from.

    Args:
        explicit: what the user named, else ``$SIGNSCLF_MODEL``, else models/default below ``cwd``, else the ready-made
            model for German traffic signs that comes with the package.

    Raises:
        ModelError: there is none of these.
    """
    if explicit:
        return user_path(explicit, ModelError), "--model"
    if environ.get("SIGNSCLF_MODEL"):
        return user_path(environ["SIGNSCLF_MODEL"], ModelError), "$SIGNSCLF_MODEL"
    default = Path(cwd) / "models" / "default"
    if default.is_dir():
        return default, "models/default here"
    if ready := ready_made():
        return ready, "ready-made, for German traffic signs; name another with --model"
    raise ModelError(
        "no model: name a model folder with --model DIR or $SIGNSCLF_MODEL, or make one with `signsclf train`"
    )


def ready_made() -> Path | None:
    """The model folder that comes with the package, in a wheel inside it, in a checkout beside it."""
    package = Path(__file__).parent
    places = (package / "models" / READY_MADE, package.parent / "models" / READY_MADE)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def _pixels(sources: Sequence[Source], size: tuple[int, int]) -> list[np.ndarray | str]:
    """Each image at the network's size, or why it cannot be read."""
    result: list[np.ndarray | str] = []
    for source in sources:
        try:
            result.append(images.resize(open_image(source), size))
        except BadImageError as error:
            result.append(str(error))
    return result


def _name(source: Source) -> str:
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else ""


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise SignsclfError(f"top_k is {top_k}, where it should be 1 or more")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
