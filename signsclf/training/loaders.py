"""The fastai DataBlock of a source, and the loader that reads it by whole batches, balanced by class."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import ColReader, IntToFloatTensor, Normalize
from fastai.torch_core import TensorCategory, TensorImage
from fastai.vision.core import PILImage
from fastcore.basics import noop
from fasttransform import Pipeline, Transform
from PIL import Image

from signsclf import images
from signsclf.data.pixels import Pixels, StreamedPixels
from signsclf.recipe import Balance
from signsclf.training.augment import BatchAugment
from signsclf.training.distributed import Share, cut

_SIGNS_AT_ONCE = 128
_MAX_FREE_SHARE = 0.25
"""Images that take more of a GPU's free memory than this stay in the CPU's: training needs the rest."""
_READ_AHEAD = 2  # batches
_PLAIN_PHASE = 3_000
"""Plain iteration: phases 0 and 1 train, 1,000 searches a learning rate and 2,000 times steps."""


Render = Callable[[np.ndarray, int, int, torch.device], torch.Tensor]
"""Renders signs: ClassIds, int (N,), side in pixels, seed and device to float (N, 3, side, side) in 0 to 1."""


def class_weights(counts: np.ndarray, balance: Balance) -> np.ndarray:
    """Give each class the weight at which one image of it is sampled, relative to the others.

    Args:
        counts: training images of each class, int (C,).
        balance: see `Balance`; ``effective`` takes beta = 1 - 1/(mean count).

    Returns:
        float64 (C,), mean 1 over the training images; 0 for classes without images.
    """
    counts = np.asarray(counts, np.float64)
    n = np.maximum(counts, 1)
    if balance is Balance.NONE:
        weights = np.ones_like(n)
    elif balance is Balance.SQRT:
        weights = n**-0.5
    elif balance is Balance.FULL:
        weights = 1 / n
    else:
        beta = 1 - 1 / max(2.0, counts[counts > 0].mean())
        weights = (1 - beta) / (1 - beta**n)
    weights = np.where(counts > 0, weights, 0)
    return weights * counts.sum() / (weights * counts).sum()


def mix_seed(*numbers: int) -> int:
    """Derive one 63-bit seed from several numbers: seed, phase, epoch, batch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def sample_epoch(weights: np.ndarray, seed: int, n: int | None = None) -> np.ndarray:
    """Sample one epoch: ``n`` positions into the training images, int64 (n,); as many as there are by default.

    Systematic sampling: an image with an expected count of w is sampled floor(w) or ceil(w) times, so that equal
    weights take each image exactly once by default, and rare classes are not left to luck.
    """
    rng = np.random.default_rng(seed)
    n = n or len(weights)
    shuffled = rng.permutation(len(weights))
    edges = np.cumsum(weights[shuffled])
    points = (np.arange(n) + rng.random()) * (edges[-1] / n)
    sampled = shuffled[np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)]
    return sampled[rng.permutation(n)]


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """What each row of a source is: its label, and its pixels or the sign that is rendered in their place.

    Attributes:
        pixels: uint8 (n, side, side, 3), or their stream.
        labels: of each row; rows beyond those of ``pixels`` are rendered.
        classes: in index order.
        paths: of each row, for people to read; "" where there is no file.
        rendered: the benchmark's ClassId of each row that is a synthetic sign, new whenever it is read; -1 for rows
            that are read from ``pixels``; int64, as long as ``labels``. None renders none.
        render: makes the images of synthetic signs; goes with ``rendered``.
    """

    pixels: Pixels
    labels: Sequence[str]
    classes: Sequence[str]
    paths: Sequence[str] | None = None
    rendered: np.ndarray | None = None
    render: Render | None = None

    @cached_property
    def targets(self) -> np.ndarray:
        """Class index of each row, int64; -1 for labels that are no class."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(label, -1) for label in self.labels], np.int64)

    @cached_property
    def on_device(self) -> DevicePixels:
        """The pixels as all loaders of these rows share them."""
        return DevicePixels(self.pixels)

    def is_rendered(self, rows: np.ndarray) -> np.ndarray:
        """Say which of these rows are synthetic signs, bool (N,)."""
        return np.zeros(len(rows), bool) if self.rendered is None else self.rendered[rows] >= 0

    def image(self, row: int) -> np.ndarray:
        """Give one row's image, uint8 (side, side, 3); a synthetic sign is the same one at every call."""
        if not self.is_rendered(np.array([row]))[0]:
            return np.asarray(self.pixels[row])
        sign = self.render(self.rendered[[row]], self.pixels.shape[1], mix_seed(row), torch.device("cpu"))
        return sign[0].permute(1, 2, 0).mul(255).round().byte().numpy()

    def items(self) -> pd.DataFrame:
        """Make the DataBlock's items: a table of path, label and row, which is the position here."""
        paths = self.paths if self.paths is not None else [""] * len(self.labels)
        columns = {"path": paths, "label": self.labels}
        # As objects: pandas' text columns refuse the surrogates in names of files that are no UTF-8.
        texts = {name: pd.Series(list(values), dtype=object) for name, values in columns.items()}
        return pd.DataFrame({**texts, "row": np.arange(len(self.labels))})


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
        batch_size: training images of a step; validation takes twice as many at a time.
        mean, std: of the channels, in 0 to 1.
        balance: class balance of training batches.
        augment: changes training images; None leaves them as they are.
        device: torch's name of where batches go.
        seed: of sampling, augmentation and rendering.
        epoch_images: training images of an epoch; 0: as many as there are.
    """

    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    balance: Balance = Balance.NONE
    augment: BatchAugment | None = None
    device: str = "cpu"
    seed: int = 0
    epoch_images: int = 0


class OpenImage(Transform):
    """Type transform that opens an item as the network sees it: squashed to ``size`` pixels a side.

    An item is a row of `SourceRows.items`, or whatever fastai users hand to ``test_dl`` and ``predict``: the path of a
    file or of a zip archive's member, the bytes of a file, a Pillow image, or a uint8 array (H, W, 3).
    """

    input_types = (pd.Series, str, Path, bytes, np.ndarray, Image.Image)

    def __init__(self, size: int, rows: SourceRows | None = None) -> None:
        super().__init__()
        self.size, self.rows = size, rows

    def __getstate__(self) -> dict[str, Any]:
        """Leave the training images out of an exported learner."""
        return {**self.__dict__, "rows": None}

    def encodes(self, item):
        if isinstance(item, pd.Series):
            if self.rows is not None and "row" in item:
                return PILImage.create(self.rows.image(item["row"]))
            item = item["path"]
        size = (self.size, self.size)
        if isinstance(item, (str, Path)):
            return PILImage.create(images.load(item, size))
        if isinstance(item, bytes):
            return PILImage.create(images.resize(images.decode(item), size))
        image = Image.fromarray(item) if isinstance(item, np.ndarray) else item
        return PILImage.create(images.resize(images.to_rgb(image), size))


class DevicePixels:
    """Decoded images, uint8 (n, H, W, 3), given out by rows on a device.

    Rows are copied to the device as they are needed, or all at once where a GPU has the memory to keep them.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self._resident: torch.Tensor | None = None

    @property
    def reads_files(self) -> bool:
        """Whether rows that are taken come from files, mapped or decoded."""
        return self._resident is None and isinstance(self.pixels, (np.memmap, StreamedPixels))

    def take(self, rows: np.ndarray, device: torch.device, read: np.ndarray | None = None) -> torch.Tensor:
        """Give these rows on the device, uint8 (N, H, W, 3).

        Args:
            read: the rows, where they have been read already.
        """
        if self._resident is None and self._fits(device):
            self._resident = torch.from_numpy(np.array(self.pixels)).to(device)
        if self._resident is None:
            return torch.from_numpy(self.pixels[rows] if read is None else read).to(device)
        return self._resident[torch.from_numpy(rows).to(device)]

    def _fits(self, device: torch.device) -> bool:
        return isinstance(self.pixels, np.ndarray) and self.pixels.nbytes <= _MAX_FREE_SHARE * _free_memory(device)


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 for other devices, to which rows go as they are needed."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


class ReadAhead:
    """Reads rows of files before they are needed, in a thread of its own: as a context, which ends that thread.

    It waits for the disk, or decodes, while the batches before are trained on.

    Args:
        source: whose rows are read.
    """

    def __init__(self, source: SourceRows) -> None:
        self._source = source
        self._coming: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="signsclf-ahead")

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def want(self, key: tuple[int, int], rows: np.ndarray) -> None:
        """Begin to read those of the rows that are not rendered, once those wanted before are read."""
        if self._source.on_device.reads_files:
            photos = rows[~self._source.is_rendered(rows)]
            self._coming[key] = self._thread.submit(self._source.pixels.__getitem__, photos)

    def wait(self, key: tuple[int, int]) -> np.ndarray | None:
        """Give the rows that were wanted by this key; None where they come from no file."""
        coming = self._coming.pop(key, None)
        return None if coming is None else coming.result()


class RowLoader(TfmdDL):
    """A fastai loader that gathers whole batches of a source's rows, and reads other items one by one, as fastai does.

    Batches of rows are plain tensors: float (N, 3, H, W) and int64 (N,). Training samples rows by weight and augments
    them. `batches` is a function of (seed, phase, epoch, batch) alone; plain iteration goes by fastai's ``rng``, so
    that every pass differs, and starts that generator at the seed.

    Args:
        dataset: fastai's; its items are rows where they are a table with the column ``row``.
        bs: images of a batch.
        rows: the source.
        weights: how often each row is sampled, relative to the others, float64 (n,); for shuffled training rows only.
        augment: for training rows only.
        seed: of all that is random here.
        kwargs: as for fastai's ``TfmdDL``.
    """

    def __init__(
        self,
        dataset: Datasets,
        bs: int = 64,
        *,
        rows: SourceRows | None = None,
        weights: np.ndarray | None = None,
        augment: BatchAugment | None = None,
        seed: int = 0,
        num_workers: int = 0,
        **kwargs,
    ) -> None:
        super().__init__(dataset, bs=bs, num_workers=num_workers, **kwargs)
        items = getattr(dataset, "items", None)
        is_source = rows is not None and isinstance(items, pd.DataFrame) and "row" in items
        # An exported learner's loaders are empty ones: they keep no images.
        self.source, self.weights = (rows, weights) if is_source else (None, None)
        self.rows = items["row"].to_numpy(np.int64) if is_source else None
        self.augment, self.seed = augment, seed
        self.rng = random.Random(mix_seed(seed))

    def new(self, dataset: Datasets | None = None, cls: type | None = None, **kwargs) -> TfmdDL:
        """Make a loader like this one for another dataset, as fastai does for tests, predictions and exports."""
        own = {"rows": self.source, "weights": self.weights, "augment": self.augment, "seed": self.seed}
        return super().new(dataset, cls, **{**own, **kwargs})

    @property
    def is_training(self) -> bool:
        """Whether the rows are sampled by weight and augmented: fastai's split index says so."""
        return getattr(self.dataset, "split_idx", None) == 0

    def get_idxs(self) -> Sequence[int]:
        """Give positions in the dataset in the order of one plain pass; see `RowLoader`."""
        if self.weights is not None and self.shuffle and self.is_training:
            return sample_epoch(self.weights[self.rows], self.rng.getrandbits(62), self.n)
        return super().get_idxs()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.rows is None:
            yield from super().__iter__()
            return
        self.randomize()
        self.before_iter()
        order = self.rows[np.fromiter(itertools.islice(self.get_idxs(), self.n), np.int64)]
        yield from self._read(order, (self.seed, _PLAIN_PHASE, self.rng.getrandbits(62)))
        self.after_iter()

    def batches(
        self, phase: int, epoch: int, first: int = 0, share: Share | None = None
    ) -> Iterator[tuple[torch.Tensor | list[torch.Tensor], torch.Tensor]]:
        """Yield the batches of a training epoch from the ``first`` one on; they depend on nothing but the arguments.

        Args:
            share: give the images of its micro-batches alone, as a list of tensors, and all of the batch's targets.
        """
        order = self._sampled(phase, epoch, 1 if share is None else share.shards)
        yield from self._read(order, (self.seed, phase, epoch), first, share)

    def shared(self, share: Share) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield those of the batches of plain rows that ``share`` evaluates."""
        taken = share.batches(len(self))
        yield from self.in_order(self.rows[taken.start * self.bs : taken.stop * self.bs])

    def in_order(self, rows: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches of any of the source's rows, in their order; a validation loader's are whole and plain."""
        yield from self._read(rows, (self.seed, _PLAIN_PHASE, 0))

    def _sampled(self, phase: int, epoch: int, shards: int) -> np.ndarray:
        """Rows of an epoch in the order of its batches; within a micro-batch, rendered ones come last."""
        order = self.rows[sample_epoch(self.weights[self.rows], mix_seed(self.seed, phase, epoch), self.n)]
        batches = [order[i : i + self.bs] for i in range(0, len(order), self.bs)]
        # Sorted reads keep a mapped file's pages together; the order within a batch does not change its gradient. But
        # whole batches are not sorted before they are cut: their parts would be of a few classes each.
        return np.concatenate([self._sorted(rows[part]) for rows in batches for part in cut(len(rows), shards)])

    def _sorted(self, rows: np.ndarray) -> np.ndarray:
        rendered = self.source.is_rendered(rows)
        return np.concatenate([np.sort(rows[~rendered]), rows[rendered]])

    def _read(
        self, order: np.ndarray, key: tuple[int, ...], first: int = 0, share: Share | None = None
    ) -> Iterator[tuple[torch.Tensor | list[torch.Tensor], torch.Tensor]]:
        """Yield finished batches of these rows, see `batches`; ``key`` seeds what is random in them."""
        n, signs = len(order) // self.bs if self.drop_last else -(-len(order) // self.bs), {}

        def rows_of(batch: int) -> np.ndarray:
            return order[batch * self.bs : (batch + 1) * self.bs]

        with ReadAhead(self.source) as ahead:
            for later in range(first, n + _READ_AHEAD):
                if later < n:
                    for number, part in _parts(rows_of(later), share):
                        ahead.want((later, number), rows_of(later)[part])
                batch = later - _READ_AHEAD
                if batch < first:
                    continue
                rows = rows_of(batch)
                if share is not None:
                    yield self._micro_batches(rows, (*key, batch), share, ahead)
                    continue
                if self.source.rendered is not None and batch not in signs:
                    signs = self._render_ahead(order, batch, key)
                x, y = self._load(rows, signs.get(batch), (*key, batch), ahead.wait((batch, 0)))
                yield self._normalized(*self._augmented(x, y, (*key, batch)))

    def _micro_batches(
        self, rows: np.ndarray, key: tuple[int, ...], share: Share, ahead: ReadAhead
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Make the micro-batches of ``share`` out of a batch's rows, each as it would be in any other process."""
        of_batch = torch.from_numpy(self.source.targets[rows]).to(self._workshop)
        parts, y = [], of_batch
        for number, part in _parts(rows, share):
            x, _ = self._load(rows[part], None, (*key, number), ahead.wait((key[-1], number)))
            x, y = self._augmented(x, of_batch, key, part)
            x, y = self._normalized(x, y)
            parts.append(x)
        return parts, y

    def _load(
        self, rows: np.ndarray, signs: torch.Tensor | None, key: tuple[int, ...], read: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather these rows, float (N, 3, H, W) in 0 to 1 and int64 (N,).

        Args:
            signs: the images of those rows that are rendered, in their order; None renders them here.
            read: the pixels of those that are not, where they have been read already; None reads them here.
        """
        rendered = self.source.is_rendered(rows)
        x = self.source.on_device.take(rows[~rendered], self._workshop, read).permute(0, 3, 1, 2).float().div_(255)
        if rendered.any():
            x = torch.cat([x, self._render(rows[rendered], key) if signs is None else signs])
            places = np.argsort(rendered, kind="stable")
            if (np.diff(places) < 0).any():
                x = x[torch.from_numpy(np.argsort(places))]
        return x, torch.from_numpy(self.source.targets[rows]).to(self._workshop)

    @property
    def _workshop(self) -> torch.device:
        """Where batches are made: Apple's GPUs lack float64, and operators that augmentation needs."""
        return self.device if self.device.type == "cuda" else torch.device("cpu")

    def _augmented(
        self, x: torch.Tensor, y: torch.Tensor, key: tuple[int, ...], part: slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.augment(x, y, mix_seed(*key), part) if self.augment is not None and self.is_training else (x, y)

    def _normalized(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the batch transforms, whose first has been applied: pixels are in 0 to 1 already."""
        x, y = x.to(self.device), y.to(self.device)
        transforms = [f for f in self.after_batch.fs if not isinstance(f, IntToFloatTensor)]
        if all(isinstance(f, Normalize) for f in transforms):
            # On plain tensors: every operation on fastai's typed ones takes Python's time.
            for normalize in transforms:
                x = (x - normalize.mean) / normalize.std
            return x, y
        typed = Pipeline(transforms, split_idx=self.dataset.split_idx)((TensorImage(x), TensorCategory(y)))
        return tuple(tensor.as_subclass(torch.Tensor) for tensor in typed)

    def _render_ahead(self, order: np.ndarray, batch: int, key: tuple[int, ...]) -> dict[int, torch.Tensor | None]:
        """Render the signs of this batch and of some that follow: many at once take half the time of a few each.

        Which batches go together depends on the loader alone: a resumed epoch renders the signs of the unbroken one.
        """
        share = np.mean(self.source.is_rendered(self.rows))
        together = max(1, round(_SIGNS_AT_ONCE / max(1.0, self.bs * share)))
        first = batch - batch % together
        batches = range(first, min(first + together, len(self)))
        rows = [order[i * self.bs : (i + 1) * self.bs] for i in batches]
        rows = [part[self.source.is_rendered(part)] for part in rows]
        wanted = np.concatenate(rows)
        if not len(wanted):
            return dict.fromkeys(batches)
        signs = self._render(wanted, (*key, first))
        return dict(zip(batches, signs.split([len(part) for part in rows]), strict=True))

    def _render(self, rows: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """Render new signs of these rows' classes, float (N, 3, H, W) in 0 to 1."""
        # Other numbers than those of the augmentation, whose seed ends with the batch.
        return self.source.render(
            self.source.rendered[rows], self.source.pixels.shape[1], mix_seed(*key, 1), self._workshop
        )

    def augmented_batch(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Give ``n`` images of the first epoch as training sees them: uint8 (n, H, W, 3), and their targets."""
        key = (self.seed, 0, 0, 0)
        order = self.rows[sample_epoch(self.weights[self.rows], mix_seed(*key[:3]), self.n)]
        x, y = self._augmented(*self._load(self._sorted(order[:n]), None, key), key)
        shown = x.mul(255).round().clamp(0, 255).byte()
        return shown.permute(0, 2, 3, 1).contiguous().cpu().numpy(), y.cpu().numpy()


def _parts(rows: np.ndarray, share: Share | None) -> list[tuple[int, slice]]:
    """Give number and place of the parts of a batch that are made here: micro-batches of ``share``, or all in one."""
    if share is None:
        return [(0, slice(None))]
    pieces = cut(len(rows), share.shards)
    return [(number, pieces[number]) for number in share.mine]


@dataclass(frozen=True, kw_only=True)
class EpochBatches:
    """The batches of one training epoch as fastai's loop reads them; it has the length of the whole epoch."""

    loader: RowLoader
    phase: int
    epoch: int
    first: int = 0
    share: Share | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor | list[torch.Tensor], torch.Tensor]]:
        return self.loader.batches(self.phase, self.epoch, self.first, self.share)


@dataclass(frozen=True, kw_only=True)
class SharedValidation:
    """The validation batches that one of several processes evaluates, as fastai's loop reads them."""

    loader: RowLoader
    share: Share

    @property
    def first_row(self) -> int:
        """The position of its first image among the validation images."""
        return self.share.batches(len(self.loader)).start * self.loader.bs

    def __len__(self) -> int:
        return len(self.share.batches(len(self.loader)))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.loader.shared(self.share)


def image_block(rows: SourceRows, weights: np.ndarray, config: LoaderConfig) -> TransformBlock:
    """Make fastai's block for images: rows of the source in whole batches, and any other item.

    Args:
        weights: see `RowLoader`.
    """
    return TransformBlock(
        type_tfms=OpenImage(rows.pixels.shape[1], rows),
        batch_tfms=[IntToFloatTensor(), Normalize.from_stats(list(config.mean), list(config.std), cuda=False)],
        dl_type=RowLoader,
        dls_kwargs={"rows": rows, "weights": weights, "augment": config.augment, "seed": config.seed},
    )


def dataloaders(rows: SourceRows, train_rows: np.ndarray, valid_rows: np.ndarray, config: LoaderConfig) -> DataLoaders:
    """Make the training and the validation loader from a DataBlock.

    Args:
        rows: the source.
        train_rows, valid_rows: positions in it; ``valid_rows`` may be empty.
    """
    n, counts = (
        config.epoch_images or len(train_rows),
        np.bincount(rows.targets[train_rows], minlength=len(rows.classes)),
    )
    weights = class_weights(counts, config.balance)[rows.targets]
    block = DataBlock(
        blocks=(image_block(rows, weights, config), CategoryBlock(vocab=list(rows.classes), sort=False)),
        getters=[noop, ColReader("label")],
        splitter=lambda _: (train_rows.tolist(), valid_rows.tolist()),
    )
    return block.dataloaders(
        rows.items(),
        bs=config.batch_size,
        val_bs=2 * config.batch_size,
        n=n,
        drop_last=n > config.batch_size,
        device=torch.device(config.device),
    )


def planned_samples(loaders: DataLoaders) -> np.ndarray:
    """Give the expected number of an epoch's samples of each class, float64 (C,); a last partial batch is left out."""
    train = loaders.train
    share = min(train.n, len(train) * train.bs) / len(train.rows)
    targets = train.source.targets[train.rows]
    return share * np.bincount(targets, weights=train.weights[train.rows], minlength=len(train.source.classes))
