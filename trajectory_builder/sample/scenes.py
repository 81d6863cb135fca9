"""The sample's pictures: photographs seen by a hand-held camera at 240 frames per second.

A clip is a photograph as background, a cut-out of another one that moves in front of it, and a
camera that pans, shakes, rotates and zooms. All motion is a sum of sines of time, so a frame can be
rendered at any moment, also between two ranks: the ground truth for interpolation.

Pixels are the same on every machine: positions are rounded to 1/32 of a pixel in our own integers,
and remapping, blending and the halving to the final size are integer arithmetic. Nothing is
random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from math import cos, exp, pi, radians, sin
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import UserError
from trajectory_builder.images.png import Pixels, decode_png
from trajectory_builder.trajectory import GOPRO_FPS

WIDTH, HEIGHT = 384, 216
"""Pixels of a frame: 1280 x 720 at three tenths of its size."""

_OVERSAMPLING = 2  # rendered at twice the size, then halved, against aliasing of fine texture
_FIXED_BITS = 16  # enough for 1/80 of a pixel at the far corner, and sums fit int32
_REMAP_BITS = 5  # OpenCV's integer remapping has steps of 1/32 of a pixel

Waves = tuple[tuple[float, float, float], ...]
"""Sum of sines: (hertz, amplitude, phase in turns)."""


@dataclass(frozen=True, slots=True)
class Motion:
    """A path over time: x and y in pixels of the frame, angle in degrees, logarithm of zoom."""

    x: Waves
    y: Waves
    angle: Waves = ()
    zoom: Waves = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """What the camera sees.

    Attributes:
        photograph: file in scikit-image's data folder; the background.
        view: pixels of the photograph across the frame, at zoom 0.
        cutout: the foreground, a key of `_CUTOUTS`.
        cutout_scale: pixels of the frame per pixel of the cut-out.
        cutout_at: its middle at rest, in pixels from the middle of the frame.
        parallax: its motion with the camera, relative to the background's.
        walk: its own motion.
        camera: the motion of the camera.
    """

    photograph: str
    view: float
    cutout: str
    cutout_scale: float
    cutout_at: tuple[float, float]
    parallax: float
    walk: Motion
    camera: Motion


@dataclass(frozen=True, slots=True)
class SampleClip:
    """One sequence of the sample, named as GoPro names them: number_frames-per-blur_shift.

    Attributes:
        name: such as GOPR9001_07_00; the real set has no numbers from 9001 up.
        split: train or test.
        pairs: number of its official pairs.
        first_pair_number: number in the name of its first pair.
        scene: a key of `SCENES`.
        starts_at: time of rank 0 in the scene's motion, in seconds.
        number_offset: added to its frame numbers, as in GOPR0378_13_00.
    """

    name: str
    split: str
    pairs: int
    first_pair_number: int
    scene: str
    starts_at: float
    number_offset: int = 0

    @property
    def n_frames(self) -> int:
        """Frames that one official blur averages."""
        return int(self.name.split("_")[1])

    @property
    def shift(self) -> int:
        """Frames that the first window starts before the first published frame."""
        return int(self.name.split("_")[2])

    @property
    def length(self) -> int:
        """Published frames: ranks 0 to length - 1."""
        return self.pairs * self.n_frames

    @property
    def first_frame_number(self) -> int:
        """Number in the name of the frame of rank 0."""
        return (self.first_pair_number - 1) * self.n_frames + 1 + self.number_offset


# A hand: a slow pan, its correction, and a tremor of 6 to 12 Hz.
_PAN: Waves = ((0.7, 34.0, 0.0), (1.9, 7.0, 0.3), (6.8, 3.6, 0.1), (11.3, 1.2, 0.7))
_TILT: Waves = ((0.9, 12.0, 0.4), (2.3, 5.0, 0.9), (7.6, 3.0, 0.6), (12.1, 1.0, 0.2))
_TURN: Waves = ((0.8, 1.0, 0.2), (6.1, 0.35, 0.5))
_NEAR_AND_FAR: Waves = ((0.5, 0.05, 0.1), (3.7, 0.008, 0.8))
_HAND = Motion(_PAN, _TILT, _TURN, _NEAR_AND_FAR)
_CALM_HAND = Motion(_PAN[1:], _TILT[1:], _TURN[1:], _NEAR_AND_FAR[1:])

SCENES: dict[str, Scene] = {
    "garage": Scene(
        photograph="motorcycle_left.png",
        view=560.0,
        cutout="person",
        cutout_scale=0.5,
        cutout_at=(-60.0, 25.0),
        parallax=1.25,
        walk=Motion(x=((0.6, 60.0, 0.0), (2.1, 6.0, 0.2)), y=((4.2, 4.0, 0.1),)),
        camera=_HAND,
    ),
    "cat": Scene(
        photograph="chelsea.png",
        view=350.0,
        cutout="cup",
        cutout_scale=0.30,
        cutout_at=(70.0, 62.0),
        parallax=1.4,
        walk=Motion(x=((0.8, 40.0, 0.5),), y=((1.1, 5.0, 0.3),), angle=((1.3, 8.0, 0.0),)),
        camera=_CALM_HAND,
    ),
    "table": Scene(
        photograph="coffee.png",
        view=470.0,
        cutout="motorcycle",
        cutout_scale=0.24,
        cutout_at=(-70.0, 40.0),
        parallax=1.15,
        walk=Motion(x=((0.9, 55.0, 0.9), (5.2, 2.0, 0.4)), y=((6.3, 1.2, 0.0),)),
        camera=_HAND,
    ),
    "launch": Scene(
        photograph="rocket.jpg",
        view=500.0,
        cutout="motorcycle",
        cutout_scale=0.34,
        cutout_at=(10.0, 62.0),
        parallax=1.3,
        walk=Motion(x=((0.7, 75.0, 0.95),), y=((5.8, 1.5, 0.2),), angle=((3.1, 0.8, 0.0),)),
        camera=_HAND,
    ),
}

CLIPS: tuple[SampleClip, ...] = (
    SampleClip("GOPR9001_07_00", "train", 4, 47, "garage", 0.02),
    SampleClip("GOPR9001_07_01", "train", 4, 601, "garage", 0.86),
    SampleClip("GOPR9002_11_00", "train", 3, 1, "cat", 0.30),
    SampleClip("GOPR9002_11_02", "train", 3, 541, "cat", 1.05),
    SampleClip("GOPR9003_11_03", "train", 3, 2481, "table", 0.10),
    SampleClip("GOPR9004_13_00", "train", 3, 41, "table", 1.31, number_offset=22_000),
    SampleClip("GOPR9005_11_00", "test", 3, 101, "launch", 0.05),
    SampleClip("GOPR9005_11_01", "test", 3, 3011, "launch", 0.71),
)
"""The sequences of the sample; together they cover every trap of the real set's names."""


def clip(name: str) -> SampleClip:
    """The clip of that name.

    Raises:
        KeyError: the sample has no such clip.
    """
    return {clip.name: clip for clip in CLIPS}[name]


def render_clip(name: str) -> Iterator[Pixels]:
    """All published frames of a clip at 240 fps, rank 0 first: (H, W, 3) uint8 RGB each."""
    for rank in range(clip(name).length):
        yield render_frame(name, rank)


def render_frame(name: str, rank: float) -> Pixels:
    """The frame at any moment of a clip, also between ranks and before the first one.

    Args:
        name: one of `CLIPS`.
        rank: time in frames at 240 fps; 3.5 is half-way between the frames of ranks 3 and 4.

    Returns:
        (HEIGHT, WIDTH, 3) uint8 RGB, the same bits on every machine.
    """
    wanted = clip(name)
    scene = SCENES[wanted.scene]
    seconds = wanted.starts_at + rank / GOPRO_FPS
    picture = _remap(_photograph(scene.photograph), background_matrix(scene, seconds))
    layer = _remap(_CUTOUTS[scene.cutout](), foreground_matrix(scene, seconds), border=0)
    _blend_over(picture, layer)
    return np.asarray(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def background_matrix(scene: Scene, seconds: float) -> npt.NDArray[np.float64]:
    """(2, 3): from the frame, in pixels from its middle, to the photograph's pixels."""
    height, width = _photograph(scene.photograph).shape[:2]
    scale = scene.view / WIDTH
    look = _camera_matrix(scene, seconds, 1.0)
    return _affine(scale, 0.0, (width / 2, height / 2)) @ _square(look)


def foreground_matrix(scene: Scene, seconds: float) -> npt.NDArray[np.float64]:
    """(2, 3): from the frame, in pixels from its middle, to the cut-out's pixels."""
    height, width = _CUTOUTS[scene.cutout]().shape[:2]
    walk = scene.walk
    x = scene.cutout_at[0] + _at(walk.x, seconds)
    y = scene.cutout_at[1] + _at(walk.y, seconds)
    scale = 1 / (scene.cutout_scale * exp(_at(walk.zoom, seconds)))
    turned = _affine(scale, -_at(walk.angle, seconds), (width / 2, height / 2))
    moved = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
    return turned @ _square(moved) @ _square(_camera_matrix(scene, seconds, scene.parallax))


def _camera_matrix(scene: Scene, seconds: float, parallax: float) -> npt.NDArray[np.float64]:
    """(2, 3): from the frame to the scene at rest, both in pixels from their middles."""
    camera = scene.camera
    at = (parallax * _at(camera.x, seconds), parallax * _at(camera.y, seconds))
    return _affine(exp(-_at(camera.zoom, seconds)), _at(camera.angle, seconds), at)


def _affine(scale: float, degrees: float, to: tuple[float, float]) -> npt.NDArray[np.float64]:
    along, across = scale * cos(radians(degrees)), scale * sin(radians(degrees))
    return np.array([[along, -across, to[0]], [across, along, to[1]]])


def _square(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.vstack([matrix, [0.0, 0.0, 1.0]])


def _at(waves: Waves, seconds: float) -> float:
    return sum(size * sin(2 * pi * (hertz * seconds + phase)) for hertz, size, phase in waves)


def _remap(
    layer: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], border: int | None = None
) -> npt.NDArray[np.uint8]:
    """Sample a layer through `matrix` at twice the frame's size; outside, mirrored or `border`."""
    zoom = 1 / _OVERSAMPLING
    # Pixel centres are at half-integers: of the fine grid in frame pixels, and of the layer.
    fine = np.array([[zoom, 0, (zoom - WIDTH) / 2], [0, zoom, (zoom - HEIGHT) / 2], [0, 0, 1.0]])
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5]])
    fixed = np.rint((matrix @ fine - shift) * (1 << _FIXED_BITS)).astype(np.int32)
    columns = np.arange(WIDTH * _OVERSAMPLING, dtype=np.int32)
    rows = np.arange(HEIGHT * _OVERSAMPLING, dtype=np.int32)[:, None]
    drop = _FIXED_BITS - _REMAP_BITS
    x, y = ((a * columns + c + b * rows) >> drop for a, b, c in fixed)  # in 1/32 of a pixel
    fraction = (1 << _REMAP_BITS) - 1
    whole = np.dstack([x >> _REMAP_BITS, y >> _REMAP_BITS]).astype(np.int16)
    part = (((y & fraction) << _REMAP_BITS) | (x & fraction)).astype(np.uint16)
    mode = cv2.BORDER_REFLECT_101 if border is None else cv2.BORDER_CONSTANT
    seen = cv2.remap(
        layer, whole, part, cv2.INTER_LINEAR, borderMode=mode, borderValue=[border or 0] * 4
    )
    return np.asarray(seen, np.uint8)


def _blend_over(picture: npt.NDArray[np.uint8], layer: npt.NDArray[np.uint8]) -> None:
    """Blend (H, W, 4) over (H, W, 3), in place; only its non-transparent box is touched."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(layer[..., 3]))
    box = np.s_[y : y + height, x : x + width]
    alpha = layer[box][..., 3:].astype(np.uint16)
    mixed = picture[box] * (255 - alpha) + layer[box][..., :3] * alpha  # at most 255 x 255
    picture[box] = (mixed + np.uint16(127)) // np.uint16(255)


def _data_file(name: str) -> bytes:
    """A file inside scikit-image's wheel: nothing is downloaded."""
    try:
        return (resources.files("skimage") / "data" / name).read_bytes()
    except OSError as error:
        raise _no_photograph(name) from error


def _no_photograph(name: str) -> UserError:
    return UserError(
        "a photograph of the sample cannot be read",
        where=f"skimage/data/{name}",
        cure="reinstall it: pip install --force-reinstall --no-deps scikit-image",
    )


@cache
def _photograph(name: str) -> npt.NDArray[np.uint8]:
    payload = _data_file(name)
    if name.endswith(".png"):
        return decode_png(payload, name=name)
    bgr = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise _no_photograph(name)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


@cache
def _person() -> npt.NDArray[np.uint8]:
    """The astronaut down to the waist, by an outline drawn by hand."""
    outline = (
        "14,511 18,430 28,352 40,308 64,266 108,232 112,180 126,160 150,152 178,146 178,132 "
        "164,122 154,95 155,60 180,27 225,15 272,28 295,70 294,115 280,127 262,136 258,150 256,176 "
        "276,188 296,210 306,240 345,278 360,330 345,345 290,380 275,511"
    )
    points = [[int(v) for v in point.split(",")] for point in outline.split()]
    mask = np.zeros((512, 512), np.uint8)
    cv2.fillPoly(mask, [np.array(points, np.int32)], 255)
    return _cut(_photograph("astronaut.png"), mask, softness=9)


@cache
def _cup() -> npt.NDArray[np.uint8]:
    """The coffee cup on its saucer."""
    photograph = _photograph("coffee.png")
    mask = np.zeros(photograph.shape[:2], np.uint8)
    cv2.ellipse(mask, (278, 225), (198, 158), 0, 0, 360, 255, -1)
    cv2.ellipse(mask, (284, 120), (114, 104), 0, 0, 360, 255, -1)
    return _cut(photograph, mask, softness=7)


@cache
def _motorcycle() -> npt.NDArray[np.uint8]:
    """The motorcycle, cut out where the measured disparity stands out from wall and floor."""
    with np.load(BytesIO(_data_file("motorcycle_disp.npz"))) as stored:
        disparity: npt.NDArray[Any] = stored["arr_0"]
    measured = np.where(np.isfinite(disparity), disparity, 0)
    floor = 38.0 + 0.165 * (np.arange(disparity.shape[0])[:, None] - 390)
    mask = ((measured > 38.0) & (measured > floor + 3.0)).astype(np.uint8) * 255
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disc), np.uint8)
    return _cut(_photograph("motorcycle_left.png"), mask, softness=3)


def _cut(
    photograph: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], *, softness: int
) -> npt.NDArray[np.uint8]:
    """(H, W, 4) RGB and a mask with soft edges."""
    soft = cv2.GaussianBlur(mask, (softness, softness), 0)
    return np.dstack([photograph, soft])


_CUTOUTS = {"person": _person, "cup": _cup, "motorcycle": _motorcycle}
