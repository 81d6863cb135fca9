"""Display matrices: all eight, held against the definition of ISO/IEC 14496-12."""

import numpy as np
import pytest
from footage_maker import pan, write_video
from PIL import Image, ImageOps

from trajectory_builder.images.video import orientation
from trajectory_builder.images.video import reading as video

ONE = 1 << 16
# (a, b, c, d) of the display matrix and EXIF's number for the same orientation.
MATRICES = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def matrix_of(a, b, c, d):
    return np.array([a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30], np.int32)


def by_definition(pixels, a, b, c, d):
    """Each stored pixel (p, q) goes to (a p + c q, b p + d q); the picture's corner is then 0."""
    height, width = pixels.shape[:2]
    q, p = np.mgrid[:height, :width]
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    shown = np.zeros((y.max() + 1, x.max() + 1, *pixels.shape[2:]), pixels.dtype)
    shown[y, x] = pixels
    return shown


@pytest.mark.parametrize("abcd", MATRICES)
def test_matrix_sends_each_pixel_where_the_standard_says(abcd):
    pixels = pan(1)[0]
    number = orientation.of_matrix(matrix_of(*abcd))
    assert (orientation.upright(pixels, number) == by_definition(pixels, *abcd)).all()


@pytest.mark.parametrize(("abcd", "number"), MATRICES.items())
def test_orientation_is_that_of_exif(abcd, number):
    assert orientation.of_matrix(matrix_of(*abcd)) == number
    pixels = pan(1)[0]
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[274] = number
    shown = np.asarray(ImageOps.exif_transpose(picture))
    assert (orientation.upright(pixels, number) == shown).all()


@pytest.mark.parametrize("abcd", MATRICES)
def test_frames_of_a_file_come_upright(tmp_path, abcd):
    frames = pan(3)
    path = write_video(tmp_path / "m.mp4", frames, matrix=matrix_of(*abcd).tolist())
    found = video.index(path)
    decoded = list(video.decode(video.stretch(found, 0, 3)))
    assert decoded[0].shape[:2] == (found.height, found.width)
    assert all((a == by_definition(b, *abcd)).all() for a, b in zip(decoded, frames, strict=True))


def test_matrix_that_shows_nothing_is_ignored():
    assert orientation.of_matrix(np.zeros(9, np.int32)) == orientation.UPRIGHT


def test_slightly_turned_matrix_counts_as_the_nearest():
    assert orientation.of_matrix(matrix_of(0.1, 0.99, -0.99, 0.1)) == 6
