"""An image in a few numbers: sharpness, brightness, a perceptual hash.

Near-duplicates are sharp images whose hashes differ in few bits; outliers are those whose
sharpness or brightness is far from the others. Both are hints for a person who looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from trajectory_builder.images.png import Pixels

HASH_SIDE = 16
NEAR_BITS = 10
"""Our choice: of the 256 bits of a hash, how many may differ in a near-duplicate."""

MAD_TO_SIGMA = 1.4826  # of a normal distribution
FAR_SIGMAS = 4.0
"""Our choice: robust standard deviations from the median that make an outlier."""


SOFT_SHARE = 4
SOFT_SHARPNESS = 10.0
"""Our choice: a sharp image counts as not sharp below this, in grey levels squared, or below one
part in `SOFT_SHARE` of the median of those opened."""


@dataclass(frozen=True)
class Look:
    """One image in numbers.

    Attributes:
        sharpness: variance of the Laplacian of the grey image, grey levels squared.
        brightness: mean grey level, 0 to 255.
        hash: 32 bytes; whether each of 16 x 16 cells is brighter than its right neighbour.
        thumbnail: a data URI, "" where none was asked for.
    """

    sharpness: float
    brightness: float
    hash: bytes
    thumbnail: str = ""


@dataclass(frozen=True)
class Near:
    """Two images that look alike: their keys and how many of 256 hash bits differ."""

    first: int
    second: int
    bits: int


@dataclass(frozen=True)
class Outlier:
    """An image far from the others: its key, in what, and how many robust sigmas."""

    key: int
    measure: str
    sigmas: float


def look_at(pixels: Pixels, thumbnail: str = "") -> Look:
    """Measure an image.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        thumbnail: kept with the numbers.
    """
    grey = grey_of(pixels)
    return Look(sharpness_of(grey), float(cv2.mean(grey)[0]), difference_hash(grey), thumbnail)


def sharpness(pixels: Pixels) -> float:
    """Variance of the Laplacian of (H, W, 3) uint8 RGB, in grey levels squared."""
    return sharpness_of(grey_of(pixels))


def grey_of(pixels: Pixels) -> Pixels:
    """(H, W, 3) uint8 RGB as a grey image (H, W)."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def sharpness_of(grey: npt.NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a grey image (H, W)."""
    laplacian = cv2.Laplacian(grey, cv2.CV_16S)
    # Five times as fast as cv2.meanStdDev on 16 bits.
    mean_square = cv2.norm(laplacian, cv2.NORM_L2SQR) / grey.size
    return float(max(0.0, mean_square - cv2.mean(laplacian)[0] ** 2))


def difference_hash(grey: npt.NDArray[np.uint8]) -> bytes:
    """256 bits of a (H, W) grey image: each cell against its right neighbour (dHash)."""
    cells = reduced(grey, HASH_SIDE + 1, HASH_SIDE)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes()


def reduced(image: Pixels, width: int, height: int) -> Pixels:
    """An image (H, W) or (H, W, 3) resized to `width` x `height`; never by area in one long leap.

    Halves first: OpenCV averages 2 x 2 cells ten times as fast as cells of a broken size.
    """
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def soft_limit(looks: Mapping[int, Look]) -> float:
    """The sharpness below which a sharp image of the data set is marked as not sharp."""
    if not looks:
        return SOFT_SHARPNESS
    median = float(np.median([look.sharpness for look in looks.values()]))
    return max(SOFT_SHARPNESS, median / SOFT_SHARE)


def near_duplicates(looks: Mapping[int, Look]) -> list[Near]:
    """All pairs within `NEAR_BITS`, most alike first.

    An image without structure (a black frame) resembles every other one, so those whose hash has
    next to no set bit are compared with nothing.
    """
    keys = [key for key, look in looks.items() if _has_structure(look)]
    if len(keys) < 2:
        return []
    bits = np.unpackbits(
        np.stack([np.frombuffer(looks[key].hash, np.uint8) for key in keys]), axis=1
    ).astype(np.int16)  # (K, 256)
    weight = bits.sum(axis=1)
    # |a xor b| = |a| + |b| - 2 |a and b|
    distances = weight[:, None] + weight[None, :] - 2 * (bits @ bits.T)  # (K, K)
    first, second = np.nonzero(np.triu(distances <= NEAR_BITS, 1))
    found = [
        Near(keys[i], keys[j], int(distances[i, j])) for i, j in zip(first, second, strict=True)
    ]
    return sorted(found, key=lambda near: (near.bits, near.first, near.second))


def outliers(looks: Mapping[int, Look]) -> list[Outlier]:
    """Images whose sharpness (on a log scale) or brightness is far from the others, worst first."""
    keys = list(looks)
    sharpness = np.log([max(looks[key].sharpness, 0.01) for key in keys])
    brightness = np.array([looks[key].brightness for key in keys]) / 32.0
    found = [
        Outlier(key, measure, float(score))
        for measure, values in (("sharpness", sharpness), ("brightness", brightness))
        for key, score in zip(keys, robust_z(values), strict=True)
        if abs(score) >= FAR_SIGMAS
    ]
    return sorted(found, key=lambda o: (-abs(o.sigmas), o.key))


def robust_z(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance of each value from the median, in standard deviations estimated from the MAD.

    All zero where there are fewer than five values; a small floor keeps a nearly constant set
    from making outliers of nothing.
    """
    if len(values) < 5:
        return np.zeros(len(values))
    centre = np.median(values)
    spread = MAD_TO_SIGMA * float(np.median(np.abs(values - centre)))
    scores: npt.NDArray[np.float64] = (values - centre) / max(spread, 0.02)
    return scores


def _has_structure(look: Look) -> bool:
    set_bits = int(np.unpackbits(np.frombuffer(look.hash, np.uint8)).sum())
    return NEAR_BITS < set_bits < 8 * len(look.hash) - NEAR_BITS
