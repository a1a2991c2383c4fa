"""What in an image speaks for its class: class activation maps from the exported model, with NumPy alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from signsclf import images
from signsclf.inference.classifier import Classifier, Source, open_image

MAX_SIDE = 1024
_OPACITY = 0.6
# Black, purple, red, orange, pale yellow: lightness rises all the way, so that it also reads in grey.
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


def check_explains(classifier: Classifier) -> None:
    """Refuse a model that has no class activation maps, before any image is read.

    Raises:
        ModelError: it has no feature map that its last layer reads, or its weights are damaged.
    """
    _ = classifier.class_weights


def activation_map(classifier: Classifier, image: Image.Image) -> np.ndarray:
    """The class activation map (Zhou et al. 2016) of the predicted class: float64 (h, w), 0 to 1.

    Each place of the last feature map is weighed as the last layer weighs it for the class, less the mean
    over all classes, which no probability depends on. What speaks against the class is 0, the strongest 1.

    Args:
        image: as `signsclf.inference.classifier.open_image` gives it.

    Raises:
        ModelError: the model has no feature map that its last layer reads.
    """
    weights = classifier.class_weights
    logits, features = classifier.logits_and_features(images.resize(image, classifier.size)[None])
    index = int(logits[0].argmax())
    heat = np.tensordot(weights[index] - weights.mean(axis=0), features[0].astype(np.float64), axes=1)
    heat = np.maximum(heat, 0)
    return heat / heat.max() if heat.max() > 0 else heat


def heat_map(classifier: Classifier, source: Source) -> Image.Image:
    """The image with what speaks for its predicted class laid over it, at most `MAX_SIDE` pixels a side.

    Raises:
        BadImageError: the image cannot be read.
        ModelError: see `activation_map`.
    """
    image = open_image(source)
    heat = activation_map(classifier, image)
    if max(image.size) > MAX_SIDE:
        image = image.copy()  # it may be the caller's own
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    level = Image.fromarray((heat * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    shades = np.linspace(0, len(_COLOURS) - 1, 256)
    table = np.stack([np.interp(shades, range(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=1)
    colours = Image.fromarray(table.astype(np.uint8)[np.asarray(level)])
    return Image.composite(colours, image, level.point([round(v * _OPACITY) for v in range(256)]))
