"""What light, lens, sensor and encoder do to images: how strongly at most, and what was sampled for each image.

NumPy only. `signsclf.training.camera` applies it to batches of tensors, `signsclf.data.synthetic.frame` to one rendered
sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_AS_SHARP = 1.3
"""A sensor with so many times the pixels that are shown leaves no trace of its own."""


@dataclass(frozen=True, kw_only=True)
class Optics:
    """How far images are changed. Chances are shares of the images; everything is sampled independently for each image.

    Attributes:
        exposure: standard deviation of the logarithm of the light.
        color_cast: standard deviations of the logarithms of red, green and blue light.
        shadow: chance that part of the image lies in shadow.
        haze: chance of a veil of stray light.
        fog: chance of a thicker one, which shines, and is denser on one side than on the other.
        glare: chance that light spills over from what is too bright.
        blur: median standard deviation of the lens's blur, share of the side; log-normal, by `blur_spread`.
        blur_spread: standard deviation of its logarithm.
        motion: chance of motion blur, of up to `motion_length` of the side.
        motion_length: the longest motion blur, share of the side.
        noise: standard deviation of the sensor's noise at most, share of full scale.
        grain: chance of up to nine times that, as a sensor has it at night.
        downscale: chance that the sensor had about as few pixels as are shown, 0.7 to 1.3 a side, each of one colour;
            where it is known how many it had, chance that this is seen.
        jpeg: chance of JPEG compression.
        jpeg_quality: JPEG's quality at least, 1 to 90.
    """

    exposure: float = 0.0
    color_cast: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shadow: float = 0.0
    haze: float = 0.0
    fog: float = 0.0
    glare: float = 0.0
    blur: float = 0.0
    blur_spread: float = 0.0
    motion: float = 0.0
    motion_length: float = 0.0
    noise: float = 0.0
    grain: float = 0.0
    downscale: float = 0.0
    jpeg: float = 0.0
    jpeg_quality: float = 30.0


@dataclass(frozen=True, kw_only=True)
class WavyLines:
    """A wavy line through each image, with coordinates of -1 to 1 across the image; each field is float (N,).

    Attributes:
        angle: direction that points across the line, in radians from the horizontal.
        offset: distance of the line from the middle, along that direction.
        amplitude: of its waves.
        frequency: of its waves, radians per unit of length.
    """

    angle: np.ndarray
    offset: np.ndarray
    amplitude: np.ndarray
    frequency: np.ndarray

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> WavyLines:
        """Sample ``n`` lines."""
        return cls(
            angle=rng.uniform(0, 2 * math.pi, n),
            offset=rng.uniform(-0.6, 0.6, n),
            amplitude=rng.uniform(0, 0.4, n),
            frequency=rng.uniform(2, 9, n),
        )

    def take(self, part: slice) -> WavyLines:
        """Give those of some of the images."""
        return WavyLines(**{name: values[part] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """What a camera does to each of N images; what it never does is None. Each field is float (N,) where not told.

    Attributes:
        gain: factors of red, green and blue light, (N, 3).
        shadow: how much light a shadow takes, 0 to 1, on one side of ``shadow_edge``.
        blur: standard deviation of the lens's blur, share of the side.
        motion, motion_angle: length of the motion blur, share of the side, and its direction in radians.
        haze: share of the light that is stray light.
        fog: likewise, thicker on one side of ``fog_edge``; ``fog_light`` from 0 to 1 is how much it shines.
        glare: share of what is brighter than the sensor can tell that is added to the whole image.
        noise: standard deviation of the noise, share of full scale; `noise_seed` seeds it.
        downscale: (scale of a side, which images, bool (N,)), applied one after the other.
        jpeg_quality: 1 to 90; NaN without compression.
    """

    gain: np.ndarray
    shadow: np.ndarray | None
    shadow_edge: WavyLines | None
    blur: np.ndarray | None
    motion: np.ndarray | None
    motion_angle: np.ndarray | None
    haze: np.ndarray | None
    fog: np.ndarray | None
    fog_edge: WavyLines | None
    fog_light: np.ndarray | None
    glare: np.ndarray | None
    noise: np.ndarray | None
    noise_seed: int
    downscale: tuple[tuple[float, np.ndarray], ...]
    jpeg_quality: np.ndarray | None

    @classmethod
    def sample(cls, n: int, optics: Optics, rng: np.random.Generator, pixels: np.ndarray | None = None) -> Exposures:
        """Sample the exposures of ``n`` images.

        The order of the calls belongs to the result: trainings that resume need the same numbers from the same seed.

        Args:
            pixels: how many the sensor had a side for each one that is shown, (N,); None samples that, too.
        """
        gain = np.exp(rng.normal(0, 1, (n, 3)) * optics.color_cast + rng.normal(0, optics.exposure, (n, 1)))
        shadow = shadow_edge = blur = motion = motion_angle = None
        haze = fog = fog_edge = fog_light = glare = noise = jpeg_quality = None
        noise_seed, downscale = 0, ()
        if optics.shadow:
            shadow = bernoulli_uniform(rng, n, optics.shadow, 0.2, 0.75)
            shadow_edge = WavyLines.sample(n, rng)
        if optics.blur or optics.motion:
            blur = optics.blur * np.exp(rng.normal(0, optics.blur_spread, n))
            motion = optics.motion_length * bernoulli_uniform(rng, n, optics.motion, 0.15, 1.0)
            # A car shakes up and down less than it goes sideways.
            motion_angle = np.where(rng.random(n) < 0.6, rng.normal(0, 0.4, n), rng.uniform(0, math.pi, n))
        if optics.haze:
            haze = bernoulli_uniform(rng, n, optics.haze, 0.05, 0.5)
        if optics.fog:
            fog = bernoulli_uniform(rng, n, optics.fog, 0.05, 0.8)
            fog_edge = WavyLines.sample(n, rng)
            fog_light = rng.random(n)
        if optics.glare:
            glare = bernoulli_uniform(rng, n, optics.glare, 0.1, 0.7)
        if optics.noise:
            noise_seed = int(rng.integers(2**62))
            level = rng.random(n) ** 2
            if optics.grain:
                level = np.where(rng.random(n) < optics.grain, rng.uniform(0, 9, n), level)
            noise = optics.noise * level
        if optics.downscale:
            # A batch is resampled in one go, so that it has a few sizes instead of one for each image.
            scales = rng.uniform(0.7, 1.3, 4)
            which, chance = rng.integers(4, size=n), optics.downscale
            if pixels is not None:
                few = pixels[pixels < _AS_SHARP]
                scales = rng.choice(few, 4) if len(few) else scales
                which, chance = np.abs(pixels[:, None] - scales).argmin(1), np.where(pixels < _AS_SHARP, chance, 0)
            seen = rng.random(n) < chance
            downscale = tuple((float(scale), seen & (which == k)) for k, scale in enumerate(scales))
        if optics.jpeg:
            chosen = np.flatnonzero(rng.random(n) < optics.jpeg)
            jpeg_quality = np.full(n, np.nan)
            jpeg_quality[chosen] = rng.uniform(optics.jpeg_quality, 90, len(chosen))
        return cls(
            gain=gain,
            shadow=shadow,
            shadow_edge=shadow_edge,
            blur=blur,
            motion=motion,
            motion_angle=motion_angle,
            haze=haze,
            fog=fog,
            fog_edge=fog_edge,
            fog_light=fog_light,
            glare=glare,
            noise=noise,
            noise_seed=noise_seed,
            downscale=downscale,
            jpeg_quality=jpeg_quality,
        )

    def take(self, part: slice) -> Exposures:
        """Give those of some of the images; the noise's seed stays that of all of them."""
        fields: dict[str, Any] = dict(vars(self))
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                fields[name] = value[part]
            elif isinstance(value, WavyLines):
                fields[name] = value.take(part)
        fields["downscale"] = tuple((scale, chosen[part]) for scale, chosen in self.downscale)
        return Exposures(**fields)


def bernoulli_uniform(rng: np.random.Generator, n: int, chance: float, low: float, high: float) -> np.ndarray:
    """Sample uniformly from ``low`` to ``high`` with this chance, else 0; float (n,)."""
    return np.where(rng.random(n) < chance, rng.uniform(low, high, n), 0.0)
