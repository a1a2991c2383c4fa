"""Predict with a model folder, by NumPy, Pillow and ONNX Runtime only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from heapq import nlargest
from inspect import isawaitable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from PIL import Image

from signsclf import images
from signsclf.errors import BadImageError, ModelError, SignsclfError, first_line
from signsclf.files import is_remote, refuse_credentials, user_path
from signsclf.inference import runtime
from signsclf.inference.arrivals import arriving
from signsclf.inference.listing import why_no_image
from signsclf.machine import usable_cores
from signsclf.model.folder import (
    CARD,
    CONFIG,
    ONNX,
    WEIGHTS,
    Config,
    parse_json,
    read_config,
    read_tensor,
    read_text,
    verify_sums,
)

Array: TypeAlias = np.ndarray[Any, Any]
ImageInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | Array
"""An image: a path, encoded bytes, an open binary file, a Pillow image, or a uint8 array H×W (grey), H×W×3 (RGB) or
H×W×4 (RGBA)."""

READY_MADE = "gtsrb-signnet"
MAX_BATCH = 64
_BATCH_VALUES = 64 * 3 * 256 * 256  # 64 images of 256×256; larger ones come in smaller batches
_CHUNK = 8  # images per decoding task; a task per image would cost more than decoding a small image
_BATCHES_AHEAD = 3
_REFETCH = "fetch or export the model again"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one image; checked at construction.

    Attributes:
        path: the image's path as it was given; "" for an image given without one.
        label: the most probable class; None where the image could not be read.
        index: its index in ``Classifier.labels``.
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
        if self.index is None or self.probability is None or self.label is None or self.index < 0:
            raise ValueError(f"{answer} is not a label, an index from 0 and a probability of 0 to 1")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"{answer} is not a label, an index from 0 and a probability of 0 to 1")
        values = [probability for _, probability in self.top_k]
        if not values or self.top_k[0] != (self.label, self.probability) or values != sorted(values)[::-1]:
            raise ValueError("top_k starts with the label itself and goes down in probability")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON values."""
        return asdict(self)


class Classifier:
    """An exported model, ready to predict; may be used from several threads at once.

    It can be copied and pickled: only its folder and arguments are stored, and the copy opens the folder again.

    Attributes:
        folder: the model folder as an absolute path, independent of the working directory.
        config: the content of config.json.
        labels: the classes, in the order of the outputs.
        size: the input size (height, width) in pixels.
        threads: the largest number of CPU threads that it uses.
        batch_size: images in a batch where the caller gives no number.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        *,
        device: str = "cpu",
        file: str = ONNX,
        config: Config | None = None,
    ) -> None:
        """Open a model folder; its config.json and the network's file are checked against SHA256SUMS.

        Args:
            threads: 1 or more; None takes the CPU cores that this process may use.
            device: "cpu", or "cuda" where the installed ONNX Runtime supports it.
            file: the network's file in the folder.
            config: of a folder that is still being written: its config.json and SHA256SUMS are not read.

        Raises:
            ModelError: the folder is missing, damaged or of an unknown version.
            DeviceError: ``device`` is "cuda" and ONNX Runtime cannot use it; the message says why.
        """
        if threads is not None and threads < 1:
            raise SignsclfError(f"threads is {threads}, where it should be 1 or more")
        self._arguments = (threads, device, file)
        self.folder = user_path(folder, ModelError).absolute()
        self.config: Config = config or read_config(self.folder)
        if config is None:
            verify_sums(self.folder, [CONFIG, file])
        self.labels = self.config.classes
        self.size = self.config.input_size
        self.threads = threads or usable_cores()
        height, width = self.size
        self.batch_size = max(1, min(MAX_BATCH, _BATCH_VALUES // (3 * height * width)))
        self._file = self.folder / file
        self._session = runtime.open_session(self._file, device=device, threads=self.threads)
        self._has_features = self._check_signature()

    def __reduce__(self) -> tuple[Callable[..., Classifier], tuple[Any, ...]]:
        return _opened, (type(self), self.folder, *self._arguments)

    @property
    def card(self) -> str:
        """The model card, in Markdown; "" where the folder has none."""
        path = self.folder / CARD
        return read_text(path) if path.is_file() else ""

    def predict(self, image: ImageInput, top_k: int = 5) -> Prediction:
        """Predict the class of one image.

        Raises:
            BadImageError: the image cannot be read.
        """
        _check_top_k(top_k)
        pixels = images.resize(open_image(image), self.size)
        return self.predictions([_name(image)], self.probabilities(pixels[None]), top_k)[0]

    def predict_batch(self, images: Iterable[ImageInput], top_k: int = 5) -> list[Prediction]:
        """Predict the classes of several images, in the order given; the Prediction of an unreadable one has its error.

        Args:
            images: a list, generator or other iterable of images, or a uint8 array N×H×W×3 (RGB) or N×H×W×4 (RGBA).

        Raises:
            SignsclfError: ``images`` is a single image, or no images at all.
        """
        return list(stream(self, images, top_k=top_k))

    def logits(self, batch: Array) -> Array:
        """Compute the last layer's outputs, float32 (N, classes), for uint8 RGB images (N, height, width, 3) of `size`.

        Raises:
            ModelError: the network cannot be run on the batch, or gives NaN or infinite values.
        """
        return self._run(batch, "logits")[0]

    def probabilities(self, batch: Array) -> Array:
        """Compute calibrated probabilities, float64 (N, classes), each row summing to 1; see `logits`."""
        return softmax(self.logits(batch))

    @property
    def has_features(self) -> bool:
        """Whether the network gives its last feature map."""
        return self._has_features

    def features(self, batch: Array) -> Array | None:
        """Compute the last feature map, float32 (N, channels, h, w); None where the network has none."""
        return self._run(batch, "features")[0] if self._has_features else None

    def logits_and_features(self, batch: Array) -> tuple[Array, Array]:
        """Compute `logits` and `features` in one run of a network that has a feature map."""
        logits, features = self._run(batch, "logits", "features")
        return logits, features

    @cached_property
    def class_weights(self) -> Array:
        """The last layer's weights for the channels of the feature map, float64 (classes, channels).

        Raises:
            ModelError: the last layer does not read a feature map, or model.safetensors does not fit it.
        """
        name = self.config.classifier
        if not self._has_features or name is None:
            raise ModelError(
                f"{self.folder}: {self.config.architecture} cannot be explained, its last layer does not read a "
                "pooled feature map; use a model that ends in pooling and one linear layer"
            )
        weights = read_tensor(self.folder / WEIGHTS, name)
        channels = next(node.shape[1] for node in self._session.get_outputs() if node.name == "features")
        wanted = (len(self.labels), channels)
        if weights.size != wanted[0] * wanted[1] or weights.shape[:2] != wanted:
            raise ModelError(f"{self.folder}: {name!r} is {weights.shape}, where the feature map needs {wanted}")
        return weights.reshape(wanted).astype(np.float64)

    def _check_signature(self) -> bool:
        """Check that the network's inputs and outputs are those that config.json describes; return whether it has a
        feature map."""
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
            raise ModelError(f"{self._file}: its input is not uint8 images (N, {height}, {width}, 3); {_REFETCH}")
        if logits is None or logits.type != "tensor(float)" or logits.shape[1:] != [len(self.labels)]:
            raise ModelError(f"{self._file}: its output is not logits of {len(self.labels)} classes; {_REFETCH}")
        metadata = self._session.get_modelmeta().custom_metadata_map
        if parse_json(metadata.get("labels", "null"), f"{self._file}: labels") != list(self.labels):
            raise ModelError(f"{self._file}: its labels differ from those of {CONFIG}; {_REFETCH}")
        return "features" in outputs and len(outputs["features"].shape) == 4

    def _run(self, batch: Array, *outputs: str) -> list[Array]:
        batch = np.asarray(batch)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (*self.size, 3):
            height, width = self.size
            raise ModelError(f"a batch should be uint8 (N, {height}, {width}, 3), and is {batch.dtype} {batch.shape}")
        try:
            # At least one run, so that an empty batch gives an empty array of the right shape.
            parts = [
                self._session.run(list(outputs), {"image": batch[start : start + self.batch_size]})
                for start in range(0, max(len(batch), 1), self.batch_size)
            ]
        except Exception as error:
            raise ModelError(f"{self._file}: fails on a batch of {len(batch)} ({first_line(error)})") from error
        results = []
        for output, pieces in zip(outputs, zip(*parts, strict=True), strict=True):
            result = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            if len(result) != len(batch) or not np.isfinite(result).all():
                raise ModelError(f"{self._file}: gives NaN or infinite {output}; {_REFETCH}")
            results.append(result)
        return results

    def predictions(self, paths: Sequence[str], probabilities: Array, top_k: int = 5) -> list[Prediction]:
        """Make the predictions of several images from their `probabilities` (N, classes)."""
        threshold = self.config.reject_threshold
        found = []
        for path, row in zip(paths, probabilities.tolist(), strict=True):
            # Not NumPy's argsort: it hands over the interpreter's lock, for which a busy server waits long.
            best = nlargest(top_k, range(len(row)), key=row.__getitem__)
            found.append(
                Prediction(
                    path=path,
                    label=self.labels[best[0]],
                    index=best[0],
                    probability=row[best[0]],
                    top_k=tuple((self.labels[index], row[index]) for index in best),
                    accepted=None if threshold is None else row[best[0]] >= threshold,
                )
            )
        return found


def softmax(logits: Array) -> Array:
    """Compute probabilities, float64 (N, classes), each row summing to 1, from logits (N, classes)."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    return cast(Array, values / values.sum(axis=1, keepdims=True))


def stream(
    classifier: Classifier,
    sources: Iterable[ImageInput],
    *,
    top_k: int = 5,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Yield predictions for any number of images, in their order, in constant memory.

    Images are decoded in ``workers`` threads while the network runs, a few batches ahead of what has been
    yielded. An image that cannot be read gives a Prediction with its error. A model trained on crops
    (``config.crop`` "roi") expects each image to be such a crop. A list or tuple is read in the caller's thread, any
    other iterable in a thread of its own: its images are answered within a second of their arrival, however long the
    next one takes, and it may change or close an image as soon as it is asked for the next. When it raises, the images
    before are answered first.

    Args:
        sources: images, or a uint8 array N×H×W×3 or N×H×W×4; see `ImageInput`.
        batch_size: images per run of the network; None takes the classifier's.
        workers: decoding threads; None takes the classifier's ``threads``.

    Raises:
        SignsclfError: a number is not 1 or more, or ``sources`` is a single image or no images at all.
        ModelError: the network fails.
    """
    _check_top_k(top_k)
    inputs = _image_inputs(sources, classifier.size)
    batch_size = classifier.batch_size if batch_size is None else batch_size
    workers = classifier.threads if workers is None else workers
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise SignsclfError(f"{name} is {value}, where it should be 1 or more")
    decode = partial(_pixels, size=classifier.size)
    return _stream(classifier, inputs, decode, top_k=top_k, batch_size=batch_size, workers=workers)


def stream_paths(
    classifier: Classifier, paths: Sequence[str], read: Callable[[str], Array], *, top_k: int = 5
) -> Iterator[Prediction]:
    """Do what `stream` does for paths, and bit for bit the same, with images that the caller reads.

    Args:
        read: gives the pixels of a path at the network's size, or raises BadImageError; called in several threads.
    """
    _check_top_k(top_k)

    def decode(chunk: Sequence[str]) -> list[Array | str]:
        return [_or_error(read, path) for path in chunk]

    return _stream(classifier, paths, decode, top_k=top_k, batch_size=classifier.batch_size, workers=classifier.threads)


def _or_error(read: Callable[[str], Array], path: str) -> Array | str:
    try:
        return read(path)
    except BadImageError as error:
        return str(error)


def _stream(
    classifier: Classifier,
    sources: Iterable[Any],
    decode: Callable[[Sequence[Any]], list[Array | str]],
    *,
    top_k: int,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="signsclf-decode")
    pending: deque[tuple[list[str], list[Future[list[Array | str]]]]] = deque()
    arrivals = arriving(sources, _BATCHES_AHEAD * batch_size)
    try:
        while True:
            # When no batch is being decoded, a partial one is taken rather than waited for.
            while len(pending) < _BATCHES_AHEAD and (batch := arrivals.take(batch_size, wait=not pending)):
                chunks = [batch[start : start + _CHUNK] for start in range(0, len(batch), _CHUNK)]
                tasks = [pool.submit(decode, chunk) for chunk in chunks]
                pending.append(([_name(source) for source in batch], tasks))
            if not pending:
                return
            names, tasks = pending.popleft()
            decoded = [pixels for task in tasks for pixels in task.result()]
            readable = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
            paths = [n for n, pixels in zip(names, decoded, strict=True) if isinstance(pixels, np.ndarray)]
            answers: Iterator[Prediction] = iter(())
            if readable:
                answers = iter(classifier.predictions(paths, classifier.probabilities(np.stack(readable)), top_k))
            for name, pixels in zip(names, decoded, strict=True):
                yield Prediction(path=name, error=pixels) if isinstance(pixels, str) else next(answers)
            arrivals.done(len(names))
    finally:
        arrivals.close()
        pool.shutdown(cancel_futures=True)


def _image_inputs(sources: Iterable[ImageInput], size: tuple[int, int]) -> Iterable[ImageInput | BadImageError]:
    """Check that ``sources`` holds several images, and return them as an iterable.

    Images of a list stay as they are until they are decoded. An iterator may fill one buffer again and again, or close
    a file when asked for the next, so its images are copied.
    """
    if isinstance(sources, np.ndarray):
        if sources.ndim == 4 and sources.dtype == np.uint8 and sources.shape[3] in (3, 4):
            return cast("Iterable[ImageInput]", sources)
        if sources.ndim == 1 and sources.dtype.kind in "OU":  # of paths or images
            return cast("list[ImageInput]", sources.tolist())
        what = f"an array of {sources.dtype} {'×'.join(map(str, sources.shape))}"
    elif (
        isinstance(sources, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Mapping)
        or hasattr(sources, "read")
        or not isinstance(sources, Iterable)
    ):
        what = f"a single {type(sources).__name__}"
        if isawaitable(sources):
            _forget(sources)
    else:
        return sources if isinstance(sources, list | tuple) else map(partial(_copied, size=size), sources)
    raise SignsclfError(
        f"images: {what}, where a list of images (or another iterable) or a uint8 array N×H×W×3 is needed; "
        "for a single image use predict"
    )


def _copied(source: ImageInput, size: tuple[int, int]) -> ImageInput | BadImageError:
    """Copy an image, so that later changes to the original do not matter; return the error if it cannot be read.

    Pixels are resized to the network's input: a few batches of a camera's frames would fill the memory.
    """
    try:
        if isinstance(source, np.ndarray | Image.Image):
            return np.array(images.resize(open_image(source), size))
        if isinstance(source, bytearray | memoryview):
            return bytes(source)
        return _read_file(cast(BinaryIO, source)) if hasattr(source, "read") else source
    except BadImageError as error:
        return error


def open_image(source: ImageInput) -> Image.Image:
    """Open an image, as RGB and upright, from any `ImageInput`.

    Raises:
        BadImageError: it cannot be read, or ``source`` is of another type.
    """
    if isinstance(source, str | os.PathLike):
        name = _name(source)
        refuse_credentials(name, BadImageError)
        name = name if is_remote(name) else str(user_path(name, BadImageError))
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
        except Exception as error:  # of many types, as in `images.decode`
            raise BadImageError(f"image: damaged or truncated ({first_line(error)})") from error
    if isinstance(source, np.ndarray):
        shaped = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))
        if source.dtype != np.uint8 or not shaped or not 0 < source.size <= 4 * images.max_pixels():
            raise BadImageError(
                "image: an array should be uint8 of H×W, H×W×3 or H×W×4 with values from 0 to 255, "
                f"and is {source.dtype} of {'×'.join(map(str, source.shape))}"
            )
        return images.to_rgb(Image.fromarray(source))
    if hasattr(source, "read"):
        return images.decode(_read_file(source))
    if isawaitable(source):
        _forget(source)
        raise BadImageError("image: a coroutine, not an image: await it and give the result")
    hint = "; for many images use predict_batch" if isinstance(source, list | tuple | Iterator) else ""
    raise BadImageError(
        f"image: {type(source).__name__} is not a path, bytes, binary file, Pillow image or uint8 array{hint}"
    )


def _read_file(file: BinaryIO) -> bytes:
    """Read a file object to its end; pipes, sockets and uploads give their bytes in parts.

    Raises:
        BadImageError: it cannot be read, gives no bytes, or gives over `images.max_bytes`.
    """
    parts: list[bytes] = []
    limit = images.max_bytes()
    left = limit + 1
    while left > 0:
        try:
            part: object = file.read(left)
            if isinstance(part, bytes | bytearray | memoryview):
                part = bytes(part)
        except Exception as error:  # file objects of other packages raise their own types
            raise BadImageError(f"image: the file object cannot be read ({first_line(error)})") from error
        if isawaitable(part):
            _forget(part)
            raise BadImageError(
                "image: the file object's read is asynchronous: await it and give the bytes, or give its .file"
            )
        if part is None:
            raise BadImageError("image: the file object has nothing to read yet: open it in blocking mode")
        if not isinstance(part, bytes):
            raise BadImageError("image: the file object gives no bytes: open it in binary mode")
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
    raise BadImageError(f"image: too large (over {limit:,} bytes)")


def _forget(awaitable: object) -> None:
    """Close a coroutine, which would otherwise warn that it was never awaited."""
    if hasattr(awaitable, "close"):
        awaitable.close()


def _opened(classifier_type: type[Classifier], folder: Path, threads: int | None, device: str, file: str) -> Classifier:
    """Open a classifier again when it is unpickled."""
    return classifier_type(folder, threads, device=device, file=file)


def find_model(explicit: str | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path, str]:
    """Find the model folder to use; return it and, in words, how it was chosen.

    Args:
        explicit: the folder that the user named. Without one it is ``$SIGNSCLF_MODEL``, else models/default in ``cwd``,
            else the ready-made model for German traffic signs that comes with the package.

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
    """Find the model folder that comes with the package: inside it in a wheel, next to it in a checkout."""
    package = Path(__file__).parents[1]
    places = (package / "models" / READY_MADE, package.parent / "models" / READY_MADE)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def _pixels(sources: Sequence[ImageInput | BadImageError], size: tuple[int, int]) -> list[Array | str]:
    """Decode images at the network's input size; for an unreadable one return the error's text instead."""
    result: list[Array | str] = []
    for source in sources:
        try:
            if isinstance(source, BadImageError):
                raise source
            result.append(images.resize(open_image(source), size))
        except BadImageError as error:
            result.append(str(error))
    return result


def _name(source: ImageInput | BadImageError) -> str:
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else ""


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise SignsclfError(f"top_k is {top_k}, where it should be 1 or more")
