"""Scenes without photographs: dead leaves, drawn from a seed alone.

The dead-leaves model throws flat shapes of power-law size at random places, each hiding what lay
below it. Lee, Mumford and Huang ("Occlusion models for natural images", IJCV 2001) show that such
pictures share the scale-invariant statistics of natural images: edges at all sizes, occlusion,
flat areas between them. Achddou, Gousseau and Ladjal ("Synthetic images as a regularity prior for
image restoration neural networks", SSVM 2021) train restoration networks on them alone.

Textures, shading, palettes, skies and the blur of a lens are our choice. The same seed gives the
same bytes with the same releases of numpy and OpenCV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

OVERSAMPLING = 2
"""Leaves are drawn without antialiasing at this many times the size, then averaged."""

SKY_SHARE = 0.2
"""Part of the scenes that are a smooth sky above a strip of leaves (our choice)."""

SMALLEST_RADIUS = 3.0
"""Of a leaf, in oversampled pixels: smaller ones drown in the lens and only cost time."""

COLOURS = 12
_TEXTURES = 3
_LEAVES = 1400
_CORNERS = 24


@dataclass(frozen=True)
class Leaves:
    """The leaves of a scene, oldest first; lengths are oversampled pixels.

    Attributes:
        x: (L,) middles.
        y: (L,) middles.
        radius: (L,) distances from the middle to the farthest point of the outline.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]


def draw_scene(seed: int, height: int = 256, width: int = 256) -> Pixels:
    """Draw one scene.

    Args:
        seed: decides everything; scenes of neighbouring seeds have nothing in common.
        height: of the scene in pixels, 16 or more.
        width: of the scene in pixels, 16 or more.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    random = np.random.default_rng((seed, 0x1EAF))
    is_sky = bool(random.random() < SKY_SHARE)
    rows, columns = height * OVERSAMPLING, width * OVERSAMPLING
    leaves = _throw(rows, columns, random, is_sky=is_sky)
    labels = _occlude(leaves, rows, columns, random)
    image = _colour(labels, leaves, random)
    if is_sky:
        behind = labels == 0
        image[behind] = _sky(rows, columns, random)[behind]
    # A lens: without it the finest texture is noise that no restoration can bring back.
    seen = cv2.GaussianBlur(image, (0, 0), random.uniform(0.8, 2.0))
    small = cv2.resize(seen, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(np.clip(small, 0, 1) * 255), np.uint8)


def radii(
    count: int, smallest: float, largest: float, exponent: float, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Sizes of density proportional to r^-exponent between two bounds, by the inverse of its CDF.

    An exponent of 3 is scale-invariant (Lee, Mumford and Huang, section 3).

    Args:
        count: how many to draw.
        smallest: lower bound, above 0.
        largest: upper bound.
        exponent: above 1.
        random: where the draws come from.
    """
    power = 1 - exponent
    low, high = smallest**power, largest**power
    sizes: npt.NDArray[np.float64] = (low + (high - low) * random.random(count)) ** (1 / power)
    return sizes


def palette(random: np.random.Generator) -> Plane:
    """(COLOURS, 3) RGB in [0, 1] around one hue: scenes differ in colour as rooms do."""
    hue = (random.uniform(0, 180) + random.normal(0, 40, COLOURS)) % 180
    saturation = np.minimum(random.gamma(1.5, 40, COLOURS), 255)
    value = np.clip(random.normal(125, 65, COLOURS), 5, 250)
    hsv = np.stack([hue, saturation, value], axis=1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] / np.float32(255), np.float32)


def _throw(rows: int, columns: int, random: np.random.Generator, *, is_sky: bool) -> Leaves:
    """Places and sizes; under a sky only the lowest part of the scene is strewn."""
    largest = min(rows, columns) / 2
    count = int(_LEAVES * rows * columns / 512**2 * (0.3 if is_sky else 1.0))
    sizes = radii(count, SMALLEST_RADIUS, largest, random.uniform(1.8, 2.7), random)
    top = rows * random.uniform(0.5, 0.9) if is_sky else 0.0
    y = random.uniform(top, rows, count)
    if is_sky:
        # A large leaf near the horizon would fill the sky.
        sizes = np.minimum(sizes, largest / 4)
    return Leaves(random.uniform(0, columns, count), y, sizes)


def _occlude(
    leaves: Leaves, rows: int, columns: int, random: np.random.Generator
) -> npt.NDArray[np.int32]:
    """(rows, columns) number of the leaf that is seen, from 1; 0 where there is none."""
    labels = np.zeros((rows, columns), np.int32)
    kinds = random.random(len(leaves.x))
    for number, (x, y, r, kind) in enumerate(
        zip(leaves.x, leaves.y, leaves.radius, kinds, strict=True), start=1
    ):
        if kind < 0.5:  # an ellipse, round as a disc to thin as a twig
            is_broad = kind < 0.25
            flatness = random.uniform(0.08, 1.0) ** 0.5 if is_broad else random.uniform(0.05, 0.4)
            turn, angles = random.uniform(0, math.pi), _ROUND
            along, across = r * np.cos(angles), r * flatness * np.sin(angles)
            corners_x = x + along * math.cos(turn) - across * math.sin(turn)
            corners_y = y + along * math.sin(turn) + across * math.cos(turn)
        else:
            angles = np.sort(random.uniform(0, 2 * math.pi, random.integers(3, 7)))
            reach = r * random.uniform(0.4, 1.0, len(angles))
            corners_x, corners_y = x + reach * np.cos(angles), y + reach * np.sin(angles)
        outline = np.stack([corners_x, corners_y], axis=1)
        cv2.fillPoly(labels, [np.rint(outline * 16).astype(np.int32)], number, shift=4)
    return labels


_ROUND = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)


def _colour(
    labels: npt.NDArray[np.int32], leaves: Leaves, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(rows, columns, 3) in about [0, 1]: a colour, a gradient and perhaps a texture per leaf."""
    rows, columns = labels.shape
    count = len(leaves.x) + 1  # label 0 is the ground
    colours = palette(random)[random.integers(COLOURS, size=count)]
    colours = (colours + random.normal(0, 0.05, (count, 3))).astype(np.float32)
    size = np.concatenate([[max(rows, columns)], leaves.radius])
    slope = random.normal(0, 1, (2, count)) * 0.15 / np.maximum(size, 8)
    slope[:, random.random(count) < 0.4] = 0.0
    # c + gx x + gy y with the leaf's middle at 0, as one plane: offsets are folded into c.
    x, y = np.concatenate([[columns / 2], leaves.x]), np.concatenate([[rows / 2], leaves.y])
    offset = (-slope[0] * x - slope[1] * y).astype(np.float32)
    slope_x, slope_y = slope.astype(np.float32)
    shade = offset[labels] + slope_x[labels] * np.arange(columns, dtype=np.float32)
    shade += slope_y[labels] * np.arange(rows, dtype=np.float32)[:, None]
    kind = random.integers(2 * _TEXTURES, size=count)  # half of the leaves have none
    strength = random.uniform(0.01, 0.10, count).astype(np.float32)
    for number in range(_TEXTURES):
        weights = np.where(kind == number, strength, np.float32(0))
        shade += weights[labels] * texture(rows, columns, random)
    return np.asarray(colours[labels] + shade[..., None], np.float32)


def texture(rows: int, columns: int, random: np.random.Generator) -> Plane:
    """A pattern of mean 0 and deviation 1: stripes, or soft noise of one scale and direction."""
    turn = random.uniform(0, math.pi)
    if random.random() < 0.15:
        period = random.uniform(4, 30)
        along = np.arange(columns) * math.cos(turn) + (np.arange(rows) * math.sin(turn))[:, None]
        return np.asarray(math.sqrt(2) * np.sin(along * (2 * math.pi / period)), np.float32)
    scale, stretch = 2 ** random.uniform(1.5, 5.5), 2 ** random.uniform(0, 2)
    # White noise on a coarse grid, seen through an affine map: a blur of any width for one price.
    side = math.ceil(math.hypot(rows, columns) * stretch / scale) + 4
    noise = random.standard_normal((min(side, 512), min(side, 512)), dtype=np.float32)
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    matrix = np.array([[cos * stretch, sin * stretch, 0], [-sin / stretch, cos / stretch, 0]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    plane: Any = cv2.warpAffine(
        noise, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    if random.random() < 0.2:
        plane = np.sign(plane)
    return np.asarray((plane - plane.mean()) / (plane.std() + 1e-6), np.float32)


def _sky(rows: int, columns: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """(rows, columns, 3): a gradient from top to bottom and, in half of the skies, soft clouds."""
    top, bottom = palette(random)[:2]
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None] ** random.uniform(0.5, 2)
    sky = np.broadcast_to(top + (bottom - top) * share, (rows, columns, 3)).astype(np.float32)
    if random.random() < 0.5:
        coarse = random.standard_normal((5, 7), dtype=np.float32)
        clouds = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
        sky = sky + random.uniform(0.02, 0.10) * clouds[..., None]
    return np.asarray(sky, np.float32)
