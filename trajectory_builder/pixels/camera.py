"""Blur as cameras make it: light, not code values, is averaged; highlights clip; sensors are noisy.

A plain mean of frames is cleaner than a photographed blur: it averages values that a camera has
already bent and clipped, and it averages noise away. With these settings, which are off unless
asked for, the mean is taken in linear light through a response curve, clipped highlights get back
some of their light, noise returns to the level of one exposure, and the blur is compressed (the
order of RSBlur, ECCV 2022, section 4). Each value may be a range; it is then drawn per trajectory.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import UsageError, printable

Pixels = npt.NDArray[Any]
Light = npt.NDArray[np.float32]

BUILT_IN = ("srgb", "gamma2.2")

CLIPPED = 0.98
"""Ours: stored values from 98 % of the full scale on count as clipped."""

_LUT_STEPS = 1 << 16


def _unusable(what: str, *, where: str = "") -> UsageError:
    """The error for camera settings that cannot be used."""
    example = "for example --camera response=srgb,highlight=1..4,shot=0.0004,jpeg=80..95"
    return UsageError(what, where=where, cure=example)


@dataclass(frozen=True, slots=True)
class Span:
    """A value, or a range from which one is drawn for each trajectory."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        """A value between low and high, evenly."""
        return self.low if self.low == self.high else float(random.uniform(self.low, self.high))

    def text(self) -> str:
        """`3` or `1..4`."""
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What a camera does to a blur; None leaves a step out.

    Attributes:
        response: `srgb`, `gamma2.2` or the path of a curve file; light to stored values.
        highlight: factor, from 1, by which clipped light is raised before averaging.
        shot: a, variance of photon noise for each unit of light (full scale is 1).
        read: b, variance of the sensor's own noise.
        jpeg: quality, 1 to 100.
        h264: constant rate factor, 0 to 51.
    """

    response: str = "srgb"
    highlight: Span | None = None
    shot: Span | None = None
    read: Span | None = None
    jpeg: Span | None = None
    h264: Span | None = None

    def as_text(self) -> str:
        """The settings in one form, whatever the user's order; `parse` reads it back."""
        spans = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "response"}
        told = [f"{name}={span.text()}" for name, span in spans.items() if span is not None]
        return ",".join([f"response={self.response}", *told])


_BOUNDS = {
    "highlight": (1.0, 100.0),
    "shot": (0.0, 1.0),
    "read": (0.0, 1.0),
    "jpeg": (1.0, 100.0),
    "h264": (0.0, 51.0),
}


def parse(text: str) -> CameraSettings:
    """Read `key=value,key=low..high`; see `CameraSettings` for the keys.

    Raises:
        UsageError: an unknown key, a value out of bounds, a curve file that cannot be used.
    """
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, sign, value = (p.strip() for p in part.partition("="))
        if not sign or key in values or key not in ("response", *_BOUNDS):
            raise _unusable(f"camera settings cannot be read at {part!r}", where=text)
        values[key] = value if key == "response" else _span(key, value)
    if "jpeg" in values and "h264" in values:
        raise _unusable("jpeg and h264 exclude one another", where=text)
    settings = CameraSettings(**values)
    response_curve(settings.response)
    return settings


def _span(key: str, text: str) -> Span:
    least, most = _BOUNDS[key]
    try:
        low, _, high = text.partition("..")
        span = Span(float(low), float(high or low))
    except ValueError as error:
        raise _unusable(f"{key} is a number or low..high, not {text!r}") from error
    if not least <= span.low <= span.high <= most:
        raise _unusable(f"{key} lies between {least:g} and {most:g}, low before high: {text!r}")
    return span


@dataclass(frozen=True, slots=True)
class Drawn:
    """One trajectory's camera: every value fixed. Written to the column `camera` as JSON."""

    response: str
    highlight: float | None = None
    shot: float | None = None
    read: float | None = None
    jpeg: int | None = None
    h264: int | None = None

    def as_data(self) -> dict[str, Any]:
        """The values that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def draw(settings: CameraSettings, trajectory_id: str, seed: int) -> Drawn:
    """Fix the settings of one trajectory; hangs on its name and the seed alone."""
    random = generator(seed, trajectory_id, "camera")
    spans = {name: getattr(settings, name) for name in _BOUNDS}
    values = {name: span.draw(random) for name, span in spans.items() if span is not None}
    whole = {name: round(values[name]) for name in ("jpeg", "h264") if name in values}
    return Drawn(settings.response, **(values | whole))


def generator(seed: int, *identity: str) -> np.random.Generator:
    """A random generator that hangs on a seed and names alone, the same on every machine."""
    text = "\0".join((str(seed), *identity)).encode()
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text).digest())))


def expose(
    frames: Sequence[Pixels], n_frames: Sequence[int], camera: Drawn, trajectory_id: str, seed: int
) -> dict[int, npt.NDArray[np.uint8]]:
    """Blurs of windows nested round the middle one of `frames`, as this camera would store them.

    Args:
        frames: the longest window in time order, (H, W, 3) uint8 or uint16.
        n_frames: the wanted windows, odd, none longer than `frames`.
        camera: from `draw`.
        trajectory_id: name that the noise hangs on, together with n and the seed.
        seed: of the build.

    Returns:
        n_frames to (H, W, 3) uint8.
    """
    curve = response_curve(camera.response)
    center, total = len(frames) // 2, np.zeros(frames[0].shape, np.float64)
    blurs: dict[int, npt.NDArray[np.uint8]] = {}
    for radius in range(max(n_frames) // 2 + 1):
        for index in {center - radius, center + radius}:
            total += light_of(frames[index], curve, camera.highlight or 1.0)
        n = 2 * radius + 1
        if n in n_frames:
            light = (total / n).astype(np.float32)
            random = generator(seed, trajectory_id, f"noise/{n}")
            light = add_noise(light, n, camera.shot or 0.0, camera.read or 0.0, random)
            blurs[n] = _compress(stored(light, curve), camera)
    return blurs


@dataclass(frozen=True)
class Curve:
    """A response curve: ascending (K,) points of light and stored value, both 0 to 1."""

    light: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]


def response_curve(name: str) -> Curve:
    """The curve `srgb` (IEC 61966-2-1), `gamma2.2`, or the one in a text file.

    A curve file has two columns, light and stored value, both from 0 to 1 and ascending.

    Raises:
        UsageError: a file that is absent or holds something else.
    """
    value = np.linspace(0, 1, 4096)
    if name == "srgb":
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return Curve(light, value)
    if name == "gamma2.2":
        return Curve(value**2.2, value)
    try:
        text = Path(name).read_text(encoding="utf-8").replace(",", " ")
        table = np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise _unusable(
            "the response is neither srgb nor gamma2.2 nor a curve file",
            where=f"{printable(name)}: {error}",
        ) from error
    sound = (
        table.ndim == 2
        and table.shape[1] == 2
        and len(table) >= 2
        and bool((np.diff(table, axis=0) > 0).all())
        and np.allclose(table[[0, -1]], [[0, 0], [1, 1]])
    )
    if not sound:
        raise _unusable(
            "a curve file has two ascending columns, light and stored value, from 0 0 to 1 1",
            where=printable(name),
        )
    return Curve(table[:, 0], table[:, 1])


def curve_sha256(name: str) -> str:
    """Digest of a response curve's points: a curve file that changes makes another set."""
    curve = response_curve(name)
    return hashlib.sha256(curve.light.tobytes() + curve.value.tobytes()).hexdigest()


def light_of(pixels: Pixels, curve: Curve, highlight: float = 1.0) -> Light:
    """Linear light of stored values, full scale 1; clipped values are raised by `highlight`."""
    top = np.iinfo(pixels.dtype).max
    scale = np.arange(top + 1) / top
    table = np.interp(scale, curve.value, curve.light)
    table[scale >= CLIPPED] *= highlight
    return np.asarray(table.astype(np.float32)[pixels])


def stored(light: Light, curve: Curve) -> npt.NDArray[np.uint8]:
    """Light as 8-bit values: clipped to full scale, bent by the curve, rounded to nearest."""
    # The curve is steep near black, so the table is indexed by the root of light.
    steps = (np.arange(_LUT_STEPS) / (_LUT_STEPS - 1)) ** 2
    table = np.rint(np.interp(steps, curve.light, curve.value) * 255).astype(np.uint8)
    index = np.rint(np.sqrt(np.clip(light, 0, 1)) * (_LUT_STEPS - 1)).astype(np.uint16)
    return np.asarray(table[index])


def add_noise(
    light: Light, n_frames: int, shot: float, read: float, random: np.random.Generator
) -> Light:
    """Bring the noise of a mean of n frames back to the level of one exposure.

    One exposure has variance a x + b at light x; the mean of n has 1/n of it. What is added is
    independent and has the variance (1 - 1/n)(a x + b): a Poisson part and a Gaussian one.

    Args:
        light: (H, W, 3), full scale 1.
        n_frames: n.
        shot: a.
        read: b.
        random: where the draws come from.
    """
    missing = 1 - 1 / n_frames
    noisy = light
    if shot * missing > 0:
        gain = shot * missing
        noisy = (gain * random.poisson(np.maximum(light, 0) / gain)).astype(np.float32)
    if read * missing > 0:
        deviation = np.float32(math.sqrt(read * missing))
        noisy = noisy + deviation * random.standard_normal(light.shape, dtype=np.float32)
    return noisy


def _compress(pixels: npt.NDArray[np.uint8], camera: Drawn) -> npt.NDArray[np.uint8]:
    if camera.jpeg is not None:
        return jpeg(pixels, camera.jpeg)
    if camera.h264 is not None:
        return h264(pixels, camera.h264)
    return pixels


def jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """The picture after JPEG at `quality` (1 to 100), 4:2:0."""
    import cv2

    done, payload = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    found = cv2.imdecode(payload, cv2.IMREAD_COLOR)
    if not done or found is None:
        raise _unusable("OpenCV could not write a JPEG")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def h264(pixels: npt.NDArray[np.uint8], rate_factor: int) -> npt.NDArray[np.uint8]:
    """The picture as an H.264 key frame at a constant rate factor (0 to 51), 4:2:0.

    Raises:
        UsageError: the installed FFmpeg has no libx264.
    """
    from trajectory_builder.images.video import containers

    av = containers.pyav()
    if "libx264" not in av.codecs_available:
        raise _unusable("the installed PyAV cannot write H.264: it was built without libx264")
    height, width = pixels.shape[:2]
    # 4:2:0 needs even sides: the last row and column are repeated, and cut off again.
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = even.shape[1], even.shape[0]
    encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", 30, Fraction(1, 30)
    encoder.options = {"crf": str(rate_factor), "threads": "1", "preset": "medium"}
    frame = av.VideoFrame.from_ndarray(even, format="rgb24")
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    frames = [f for packet in packets for f in decoder.decode(packet)]
    frames += decoder.decode(None)
    decoded = frames[0].to_ndarray(format="rgb24")
    return np.ascontiguousarray(decoded[:height, :width])
