"""Explain predictions by class activation maps from the exported model, with NumPy alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from signsclf import images
from signsclf.inference.classifier import Classifier, ImageInput, open_image

MAX_SIDE = 1024
_OPACITY = 0.6
# Black, purple, red, orange, pale yellow: lightness rises throughout, so that it is also legible in grey.
_COLOUR_MAP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)


def check_explains(classifier: Classifier) -> None:
    """Check that a model has class activation maps, before any image is read.

    Raises:
        ModelError: its last layer does not read a feature map, or its weights are damaged.
    """
    _ = classifier.class_weights


def activation_map(classifier: Classifier, image: Image.Image) -> np.ndarray:
    """Compute the class activation map (Zhou et al. 2016) of the predicted class: float64 (h, w), 0 to 1.

    Each position of the last feature map is weighted by the last layer's weights for the class minus their mean over
    all classes, which has no effect on probabilities. Evidence against the class is 0, the strongest evidence for it 1.

    Args:
        image: as `signsclf.inference.classifier.open_image` returns it.

    Raises:
        ModelError: the model's last layer does not read a feature map.
    """
    check_explains(classifier)
    logits, features = classifier.logits_and_features(images.resize(image, classifier.size)[None])
    return activation_map_of(classifier, logits[0], features[0])


def activation_map_of(classifier: Classifier, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Compute the `activation_map` from one image's outputs: logits (classes,), features (channels, h, w).

    Raises:
        ModelError: the model's last layer does not read a feature map.
    """
    weights = classifier.class_weights
    index = int(logits.argmax())
    heat = np.tensordot(weights[index] - weights.mean(axis=0), features.astype(np.float64), axes=1)
    heat = np.maximum(heat, 0)
    return heat / heat.max() if heat.max() > 0 else heat


def heat_map(classifier: Classifier, source: ImageInput) -> Image.Image:
    """Overlay an image with its `activation_map`, at most `MAX_SIDE` pixels a side.

    Raises:
        BadImageError: the image cannot be read.
        ModelError: see `activation_map`.
    """
    image = open_image(source)
    heat = activation_map(classifier, image)
    if max(image.size) > MAX_SIDE:
        image = image.copy()  # thumbnail changes it in place, and it may be the caller's
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    level = Image.fromarray((heat * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    shades = np.linspace(0, len(_COLOUR_MAP) - 1, 256)
    table = np.stack([np.interp(shades, range(len(_COLOUR_MAP)), channel) for channel in _COLOUR_MAP.T], axis=1)
    colours = Image.fromarray(table.astype(np.uint8)[np.asarray(level)])
    return Image.composite(colours, image, level.point([round(v * _OPACITY) for v in range(256)]))
