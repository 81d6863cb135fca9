"""White in 16-bit images of fewer bits: noticed, scaled on demand, refused at 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ExitCode, ImageError
from trajectory_builder.images.picture import stretched

LOW_END = 1 << 14
"""Our choice: 16-bit values that all are below plainly end below their container: 8 bits of them
would keep under 6. Industrial cameras store 10 to 14 bits so, without a tag that says it."""


def with_white(
    samples: npt.NDArray[Any], colours: int, white: int | None, name: str
) -> tuple[npt.NDArray[Any], int | None]:
    """Samples of a 16-bit container scaled so that `white` becomes 65535.

    Args:
        samples: (H, W, S) uint16, the colours first.
        colours: how many of the samples are colours. Alpha is scaled too where it ends at white.
        white: the value of white; None leaves the samples as they are.
        name: how errors call the file.

    Returns:
        The samples, and the largest colour where no white is named and it is below `LOW_END`.

    Raises:
        ImageError: a colour is above `white`.
    """
    end = int(samples[:, :, :colours].max())
    if white is None:
        return samples, end if end < LOW_END else None
    if end > white:
        raise ImageError(
            f"the image has values up to {end:,}, above white at {white:,}",
            reason="frame-above-white",
            where=name,
            cure="give the value that is white in this image with --white; images of another"
            " camera need a command of their own",
        )
    alpha_too = int(samples.max()) <= white
    scaled = samples.copy()
    kept = samples.shape[2] if alpha_too else colours
    scaled[:, :, :kept] = stretched(samples[:, :, :kept], white, np.uint16)
    return scaled, None


def notes_on_white(ends_at: int | None, white: int | None) -> tuple[str, ...]:
    """What a record says of 16-bit values that end below their container, or were scaled."""
    if white not in (None, 65535):
        return (f"values up to {white:,} became values up to 65,535",)
    if not ends_at:  # all black has no other white
        return ()
    return (
        f"the values end at {ends_at:,} of 65,535: a dark image, or fewer bits in 16, which"
        f" --white {likely_white(ends_at)} scales",
    )


def likely_white(ends_at: int) -> int:
    """White of a camera whose values end there: the next 2^b - 1, from 8 bits on."""
    return (1 << max(8, ends_at.bit_length())) - 1


def refuse_few_levels(ends_at: int | None, name: str) -> None:
    """Refuse an image that would keep too little at 8 bits.

    Args:
        ends_at: `Picture.ends_at`.
        name: how the error calls the file.

    Raises:
        ImageError: reason `frame-values-low`; the cure is `--white`.
    """
    if not ends_at:
        return
    white = likely_white(ends_at)
    raise ImageError(
        f"the 16-bit values end at {ends_at:,} of 65,535; 8 bits would keep {ends_at // 257 + 1}"
        " levels of them",
        reason="frame-values-low",
        where=name,
        exit_code=ExitCode.WRONG_USE,
        cure=f"give --white {white} if the camera has {white.bit_length()} bits, or --white 65535"
        " if the image is only dark",
    )
