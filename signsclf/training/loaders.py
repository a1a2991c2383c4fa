"""The fastai DataBlock that describes the data, and the loader that reads it by whole batches, balanced by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders, Datasets, TfmdDL

from signsclf.recipe import Balance
from signsclf.training.augment import BatchAugment

_SIGNS_AT_ONCE = 128
_MAX_FREE_SHARE = 0.25
"""Images that take more of a GPU's free memory than this stay where they are: the training wants the rest."""


Render = Callable[[np.ndarray, int, int, torch.device], torch.Tensor]
"""Gives new images of classes: from ClassIds, int (N,), their side in pixels and a seed to float (N, 3, side, side)."""


def class_weights(counts: np.ndarray, balance: Balance) -> np.ndarray:
    """For each class how often one image of it is drawn, relative to the others.

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
    """One 63-bit seed from several numbers: seed, phase, epoch, batch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def sample_epoch(weights: np.ndarray, seed: int, n: int | None = None) -> np.ndarray:
    """The order of one epoch: ``n`` positions into the training images, int64 (n,); as many as there are by default.

    Systematic sampling: an image that is to be drawn w times by its weight is drawn floor(w) or ceil(w) times, so that
    equal weights draw each image exactly once by default, and rare classes are not left to luck.
    """
    rng = np.random.default_rng(seed)
    n = n or len(weights)
    shuffled = rng.permutation(len(weights))
    edges = np.cumsum(weights[shuffled])
    points = (np.arange(n) + rng.random()) * (edges[-1] / n)
    drawn = shuffled[np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)]
    return drawn[rng.permutation(n)]


@dataclass(frozen=True)
class PixelRow:
    """DataBlock getter: item number to its uint8 (H, W, 3) pixels."""

    pixels: np.ndarray

    def __call__(self, item: int) -> np.ndarray:
        return self.pixels[item]


@dataclass(frozen=True)
class LabelRow:
    """DataBlock getter: item number to its label."""

    labels: Sequence[str]

    def __call__(self, item: int) -> str:
        return self.labels[item]


class DevicePixels:
    """The decoded images, uint8 (n, H, W, 3), given out by rows on a device: all of them lie on a GPU that has room."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self._there: torch.Tensor | None = None

    @property
    def reads_a_file(self) -> bool:
        """Whether rows that are taken come from a mapped file."""
        return isinstance(self.pixels, np.memmap) and self._there is None

    def take(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """These rows on the device, uint8 (N, H, W, 3)."""
        if self._there is None and self.pixels.nbytes <= _MAX_FREE_SHARE * _free_memory(device):
            self._there = torch.from_numpy(np.array(self.pixels)).to(device)
        if self._there is None:
            return torch.from_numpy(self.pixels[rows]).to(device)
        return self._there[torch.from_numpy(rows).to(device)]


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 for other devices, to which rows go as they are needed."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


class BatchLoader(TfmdDL):
    """Reads a batch by one indexed gather and hands it to the device whole: uint8 (N, H, W, 3) to float (N, 3, H, W).

    Rows with a ClassId in ``drawn`` are drawn signs, new at every reading; the others have -1 there.

    A training loader draws by weight and augments; every draw derives from (seed, phase, epoch, batch) alone. Set
    ``phase`` and ``epoch`` before each pass, and ``first_batch`` to go on within an interrupted epoch.
    """

    def __init__(
        self,
        dataset: Datasets,
        bs: int = 64,
        *,
        store: DevicePixels | None = None,
        targets: np.ndarray | None = None,
        drawn: np.ndarray | None = None,
        render: Render | None = None,
        rows: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        augment: BatchAugment | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        n_classes: int = 0,
        seed: int = 0,
        **kwargs,
    ) -> None:
        kwargs["num_workers"] = 0
        super().__init__(dataset, bs=bs, **kwargs)
        self.store, self.targets, self.drawn, self.rows, self.weights = store, targets, drawn, rows, weights
        self.render, self.augment, self.seed = render, augment, seed
        # Apple's GPUs lack float64, and operators that augmentation needs: their batches are made on the CPU.
        self.making = self.device if self.device.type == "cuda" else torch.device("cpu")
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)
        self.phase = self.epoch = self.first_batch = 0
        self.draws = np.zeros(n_classes, np.int64)

    @property
    def is_training(self) -> bool:
        return self.weights is not None

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self.rows
        if self.is_training:
            order = self.rows[sample_epoch(self.weights, mix_seed(self.seed, self.phase, self.epoch), self.n)]
        first, self.first_batch = self.first_batch, 0
        signs: dict[int, torch.Tensor | None] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="signsclf-ahead") as ahead:
            for batch in range(first, len(self)):
                rows, following = (self._rows_of(order, i) for i in (batch, batch + 1))
                if self.store.reads_a_file:
                    pixels = self.store.pixels
                    # The next batch's pages come from the disk meanwhile: this thread waits, and takes no core.
                    ahead.submit(np.take, pixels, np.sort(following[following < len(pixels)]), 0)
                if self.drawn is not None and batch not in signs:
                    signs = self._draw_ahead(order, batch)
                yield self.read(rows, batch, signs.get(batch))

    def _rows_of(self, order: np.ndarray, batch: int) -> np.ndarray:
        return order[batch * self.bs : (batch + 1) * self.bs]

    def read(
        self, rows: np.ndarray, batch: int = 0, signs: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """These rows on the device, augmented where this is a training loader, normalised.

        Args:
            signs: the images of those rows that are drawn signs, in their order; None draws them here.
        """
        is_drawn = np.zeros(len(rows), bool) if self.drawn is None else self.drawn[rows] >= 0
        # Sorted reads keep a mapped file's pages together; the batch's order does not matter to its gradient.
        kept, new = np.sort(rows[~is_drawn]), rows[is_drawn]
        x = self.store.take(kept, self.making).permute(0, 3, 1, 2).float().div_(255)
        if len(new):
            x = torch.cat([x, self._draw(new, batch) if signs is None else signs])
        targets = self.targets[np.concatenate([kept, new])]
        y = torch.from_numpy(targets).to(self.making)
        if self.is_training:
            self.draws += np.bincount(targets, minlength=len(self.draws))
            if self.augment is not None:
                x, y = self.augment(x, y, mix_seed(self.seed, self.phase, self.epoch, batch))
        x = (x - self.mean.to(x.device)) / self.std.to(x.device)
        return x.to(self.device), y.to(self.device)

    def _draw_ahead(self, order: np.ndarray, batch: int) -> dict[int, torch.Tensor | None]:
        """The drawn signs of this batch and of some that follow: many at once take half the time that a few do each.

        Which batches go together depends on the loader alone: a resumed epoch draws the signs of the unbroken one.
        """
        share = np.mean(self.drawn[self.rows] >= 0)
        together = max(1, round(_SIGNS_AT_ONCE / max(1.0, self.bs * share)))
        first = batch - batch % together
        batches = range(first, min(first + together, len(self)))
        rows = [rows[self.drawn[rows] >= 0] for rows in (self._rows_of(order, i) for i in batches)]
        wanted = np.concatenate(rows)
        if not len(wanted):
            return dict.fromkeys(batches)
        signs = self._draw(wanted, first)
        return dict(zip(batches, signs.split([len(part) for part in rows]), strict=True))

    def _draw(self, rows: np.ndarray, batch: int) -> torch.Tensor:
        """New signs of these rows' classes, float (N, 3, H, W) in 0 to 1."""
        # Other numbers than those of the augmentation, whose seed ends with the batch.
        seed = mix_seed(self.seed, self.phase, self.epoch, batch, 1)
        return self.render(self.drawn[rows], self.store.pixels.shape[1], seed, self.making)

    def augmented_batch(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The first ``n`` images of the first epoch as training sees them: uint8 (n, H, W, 3), and their labels."""
        draws = self.draws.copy()
        order = self.rows[sample_epoch(self.weights, mix_seed(self.seed, 0, 0), self.n)]
        x, y = self.read(order[:n])
        self.draws = draws
        shown = (x.cpu() * self.std + self.mean).mul(255).round().clamp(0, 255).byte()
        return shown.permute(0, 2, 3, 1).contiguous().numpy(), y.cpu().numpy()


def dataloaders(
    pixels: np.ndarray,
    labels: Sequence[str],
    classes: Sequence[str],
    train_rows: np.ndarray,
    valid_rows: np.ndarray,
    *,
    batch_size: int,
    balance: Balance = Balance.NONE,
    augment: BatchAugment | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    device: str = "cpu",
    seed: int = 0,
    drawn: np.ndarray | None = None,
    render: Render | None = None,
    epoch_images: int = 0,
) -> DataLoaders:
    """The DataBlock of decoded images, and its two loaders.

    Args:
        pixels: uint8 (n, H, W, 3).
        labels: of each image, and of each row of ``drawn`` beyond them.
        classes: in index order.
        train_rows, valid_rows: positions into ``pixels``; ``valid_rows`` may be empty.
        mean, std: of the channels, in 0 to 1.
        drawn: for each row the benchmark's ClassId where it is to be a drawn sign, new at every reading, -1 where it is
            read from ``pixels``; rows beyond those of ``pixels`` are drawn signs; int64 (n or more,). None draws none.
        render: gives the images of drawn signs; goes with ``drawn``.
        epoch_images: training images that an epoch draws; 0: as many as there are.
    """
    index = {name: i for i, name in enumerate(classes)}
    targets = np.array([index.get(label, -1) for label in labels], np.int64)
    block = DataBlock(
        blocks=(TransformBlock(), CategoryBlock(vocab=list(classes), sort=False)),
        getters=[PixelRow(pixels), LabelRow(labels)],
        # Not by the validation rows alone: test images would count as training ones.
        splitter=lambda _: (train_rows[train_rows < len(pixels)].tolist(), valid_rows.tolist()),
    )
    datasets = block.datasets(range(len(pixels)))
    counts = np.bincount(targets[train_rows], minlength=len(classes))
    weights = class_weights(counts, balance)[targets[train_rows]]
    shared = {
        "store": DevicePixels(pixels),
        "targets": targets,
        "mean": mean,
        "std": std,
        "n_classes": len(classes),
        "seed": seed,
        "do_setup": False,
        "device": torch.device(device),
    }
    train = BatchLoader(
        datasets.subset(0),
        batch_size,
        rows=train_rows,
        weights=weights,
        drawn=drawn,
        render=render,
        augment=augment,
        n=epoch_images or len(train_rows),
        drop_last=(epoch_images or len(train_rows)) > batch_size,
        **shared,
    )
    valid = BatchLoader(
        datasets.subset(1),
        2 * batch_size,
        rows=valid_rows,
        n=len(valid_rows),
        **shared,
    )
    return DataLoaders(train, valid, device=torch.device(device))


def planned_samples(loaders: DataLoaders, n_classes: int) -> np.ndarray:
    """How many images of each class an epoch is meant to draw, float64 (C,); a last partial batch is not drawn."""
    train = loaders.train
    drawn = min(train.n, len(train) * train.bs) / len(train.rows)
    return drawn * np.bincount(train.targets[train.rows], weights=train.weights, minlength=n_classes)
