"""Camera response: light is averaged instead of code values, highlights clip, noise returns.

A mean of frames is cleaner than a photographed blur: it averages values that a camera has already
tone-mapped and clipped, and it averages noise away. These settings, all off by default, average in
linear light through a response curve, restore some light to clipped highlights, bring noise back to
the level of one exposure, and compress the blur (the order of RSBlur, ECCV 2022, section 4). Each
value may be a range; one value is then drawn per trajectory.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.errors import UsageError, printable

Pixels = npt.NDArray[Any]
Light = npt.NDArray[np.float32]

BUILT_IN = ("srgb", "gamma2.2")

CLIPPED = 0.98
"""Our choice: stored values from 98 % of full scale on count as clipped."""

_LUT_STEPS = 1 << 16
_BOUNDS = {
    "highlight": (1.0, 100.0),
    "shot": (0.0, 1.0),
    "read": (0.0, 1.0),
    "jpeg": (1.0, 100.0),
}
_EXAMPLE = "for example --camera response=srgb,highlight=1..4,shot=0.0004,jpeg=80..95"


@dataclass(frozen=True, slots=True)
class Span:
    """A value, or a range from which one value is drawn per trajectory."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        """Draw uniformly between low and high."""
        return self.low if self.low == self.high else float(random.uniform(self.low, self.high))

    def text(self) -> str:
        """`3` or `1..4`."""
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What a camera does to a blur; None skips a step.

    Attributes:
        response: `srgb`, `gamma2.2` or the path of a curve file; maps light to stored values.
        highlight: factor, at least 1, by which clipped light is raised before averaging.
        shot: a, variance of photon noise per unit of light (full scale is 1).
        read: b, variance of the sensor's read noise.
        jpeg: quality, 1 to 100.
    """

    response: str = "srgb"
    highlight: Span | None = None
    shot: Span | None = None
    read: Span | None = None
    jpeg: Span | None = None

    def as_text(self) -> str:
        """The settings in canonical order; `parse` reads them back."""
        spans = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "response"}
        texts = [f"{name}={span.text()}" for name, span in spans.items() if span is not None]
        return ",".join([f"response={self.response}", *texts])


def parse(text: str) -> CameraSettings:
    """Read `key=value,key=low..high`; see `CameraSettings` for the keys.

    Raises:
        UsageError: an unknown key, a value out of bounds, an unusable curve file.
    """
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, sign, value = (p.strip() for p in part.partition("="))
        if not sign or key in values or key not in ("response", *_BOUNDS):
            raise UsageError(
                f"camera settings cannot be read at {part!r}",
                where=f"--camera {text}; each of response, {', '.join(_BOUNDS)} once at most",
                cure=_EXAMPLE,
            )
        values[key] = value if key == "response" else _span(key, value)
    settings = CameraSettings(**values)
    response_curve(settings.response)
    return settings


def _span(key: str, text: str) -> Span:
    least, most = _BOUNDS[key]
    try:
        low, _, high = text.partition("..")
        span = Span(float(low), float(high or low))
    except ValueError as error:
        raise UsageError(
            f"{key} is a number or low..high, not {text!r}",
            where=f"--camera {key}={text}",
            cure=_EXAMPLE,
        ) from error
    if not least <= span.low <= span.high <= most:
        raise UsageError(
            f"{key} must be between {least:g} and {most:g}, low before high",
            where=f"--camera {key}={text}",
            cure=_EXAMPLE,
        )
    return span


@dataclass(frozen=True, slots=True)
class Drawn:
    """The camera of one trajectory, all values fixed; stored as JSON in the column `camera`."""

    response: str
    highlight: float | None = None
    shot: float | None = None
    read: float | None = None
    jpeg: int | None = None

    def as_data(self) -> dict[str, object]:
        """The values that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def draw(settings: CameraSettings, trajectory_id: str, seed: int) -> Drawn:
    """Draw one trajectory's settings; depends only on its name and the seed."""
    random = generator(seed, trajectory_id, "camera")
    spans = {name: getattr(settings, name) for name in _BOUNDS}
    values = {name: span.draw(random) for name, span in spans.items() if span is not None}
    quality = {"jpeg": round(values["jpeg"])} if "jpeg" in values else {}
    return Drawn(settings.response, **(values | quality))


def generator(seed: int, *identity: str) -> np.random.Generator:
    """A random generator that depends only on a seed and names, the same on every machine."""
    # The digest seeds PCG64, whose stream numpy keeps stable between versions (NEP 19).
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
        trajectory_id: seeds the noise, together with n and the seed.
        seed: of the build.

    Returns:
        n_frames to (H, W, 3) uint8.
    """
    curve = response_curve(camera.response)
    center, total = len(frames) // 2, np.zeros(frames[0].shape, np.float64)
    blurs: dict[int, npt.NDArray[np.uint8]] = {}
    # Windows nest, so one sum grows outwards from the centre and serves every n.
    for radius in range(max(n_frames) // 2 + 1):
        for index in {center - radius, center + radius}:
            total += light_of(frames[index], curve, camera.highlight or 1.0)
        n = 2 * radius + 1
        if n in n_frames:
            light = (total / n).astype(np.float32)
            random = generator(seed, trajectory_id, f"noise/{n}")
            light = add_noise(light, n, camera.shot or 0.0, camera.read or 0.0, random)
            blur = stored(light, curve)
            blurs[n] = blur if camera.jpeg is None else jpeg(blur, camera.jpeg)
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
        UsageError: the file is absent or is not a curve.
    """
    value = np.linspace(0, 1, 4096)
    if name == "srgb":
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return Curve(light, value)
    if name == "gamma2.2":
        return Curve(value**2.2, value)
    try:
        text = read_regular_text(name).replace(",", " ")
        table = np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise UsageError(
            "the response is neither srgb nor gamma2.2 nor a curve file",
            where=f"{printable(name)}: {error}",
            cure=_EXAMPLE,
        ) from error
    # Ascending in both columns: `light_of` inverts the curve that `stored` applies.
    usable = (
        table.ndim == 2
        and table.shape[1] == 2
        and len(table) >= 2
        and bool((np.diff(table, axis=0) > 0).all())
        and np.allclose(table[[0, -1]], [[0, 0], [1, 1]])
    )
    if not usable:
        raise UsageError(
            "a curve file has two ascending columns, light and stored value, from 0 0 to 1 1",
            where=printable(name),
            cure="write a line per point, for example `0.5 0.73`, or name a built-in: "
            "response=srgb or response=gamma2.2",
        )
    return Curve(table[:, 0], table[:, 1])


def curve_sha256(name: str) -> str:
    """Digest of a response curve's points: a curve file that changes makes another set."""
    curve = response_curve(name)
    return hashlib.sha256(curve.light.tobytes() + curve.value.tobytes()).hexdigest()


def light_of(pixels: Pixels, curve: Curve, highlight: float = 1.0) -> Light:
    """Linear light of stored values, full scale 1; clipped values are multiplied by `highlight`."""
    top = np.iinfo(pixels.dtype).max
    scale = np.arange(top + 1) / top
    table = np.interp(scale, curve.value, curve.light)
    table[scale >= CLIPPED] *= highlight
    return np.asarray(table.astype(np.float32)[pixels])


def stored(light: Light, curve: Curve) -> npt.NDArray[np.uint8]:
    """Light as 8-bit values: clipped to full scale, mapped by the curve, rounded to nearest."""
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
    missing = 1 - 1 / n_frames  # share of one exposure's variance that averaging removed
    noisy = light
    if shot * missing > 0:
        gain = shot * missing  # gain * Poisson(x / gain) has mean x and variance gain * x
        noisy = (gain * random.poisson(np.maximum(light, 0) / gain)).astype(np.float32)
    if read * missing > 0:
        deviation = np.float32(math.sqrt(read * missing))
        noisy = noisy + deviation * random.standard_normal(light.shape, dtype=np.float32)
    return noisy


def jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """The picture after JPEG at `quality` (1 to 100), 4:2:0."""
    import cv2

    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, payload = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Any = cv2.imdecode(payload, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
