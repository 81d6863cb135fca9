"""White of 16-bit images with fewer bits: noticed, scaled as numpy scales it, refused at 8 bits."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from trajectory_builder.errors import ImageError
from trajectory_builder.images.pictures import decode
from trajectory_builder.images.white import likely_white, refuse_few_levels

SMOOTH = np.linspace(0, 1, 48 * 64 * 3).reshape(48, 64, 3)


def tiff(values, **options):
    sink = io.BytesIO()
    tifffile.imwrite(sink, values, **{"photometric": "rgb"} | options)
    return sink.getvalue()


def png(values):
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


def of_bits(bits):
    return np.rint(SMOOTH * (2**bits - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_white_scales_a_tiff_as_numpy_does(bits):
    white = 2**bits - 1
    picture = decode(tiff(of_bits(bits)), name="a", white=white)
    assert np.array_equal(picture.pixels, np.rint(of_bits(bits) * (65535 / white)))
    assert picture.ends_at is None
    assert picture.notes == (f"values up to {white:,} became values up to 65,535",)


def test_white_scales_a_gray_png():
    values = of_bits(12)[:, :, 0]
    picture = decode(png(values), name="a", white=4095)
    assert np.array_equal(picture.pixels[:, :, 0], np.rint(values * (65535 / 4095)))


def test_white_is_zero_is_scaled_before_it_is_turned_round():
    values = of_bits(12)[:, :, 0]
    picture = decode(tiff(4095 - values, photometric="miniswhite"), name="a", white=4095)
    assert np.abs(picture.pixels[:, :, 0] - np.rint(values * (65535 / 4095))).max() <= 1


@pytest.mark.parametrize(("opaque", "alpha"), [(4095, 65535), (65535, 65535)])
def test_alpha_is_scaled_where_it_ends_at_white_too(opaque, alpha):
    values = np.dstack([of_bits(12), np.full((48, 64), opaque, np.uint16)])
    picture = decode(tiff(values, extrasamples=["unassalpha"]), name="a", white=4095)
    assert (picture.alpha == alpha).all()
    assert picture.pixels.max() == 65535


def test_a_value_above_white_is_refused_with_both_numbers():
    with pytest.raises(ImageError, match="4,095, above white at 1,023") as caught:
        decode(tiff(of_bits(12)), name="a.tif", white=1023)
    assert (caught.value.reason, caught.value.where) == ("frame-above-white", "a.tif")
    assert "--white" in caught.value.cure


def test_white_leaves_eight_bits_and_tagged_depths_alone():
    plain = (SMOOTH * 255).astype(np.uint8)
    assert np.array_equal(decode(tiff(plain), name="a", white=4095).pixels, plain)


@pytest.mark.parametrize(("ends_at", "white"), [(200, 255), (3890, 4095), (4096, 8191)])
def test_the_likely_white_is_that_of_the_fewest_bits(ends_at, white):
    assert likely_white(ends_at) == white


def test_few_levels_are_refused_with_the_likely_white_and_the_way_out():
    picture = decode(tiff(of_bits(12)), name="a")
    assert picture.ends_at == 4095
    with pytest.raises(ImageError, match="end at 4,095 of 65,535") as caught:
        refuse_few_levels(picture.ends_at, "a.tif")
    assert "--white 4095" in caught.value.cure
    assert "--white 65535" in caught.value.cure


@pytest.mark.parametrize("values", [of_bits(16), np.zeros((48, 64, 3), np.uint16)])
def test_full_range_and_all_black_are_not_refused(values):
    refuse_few_levels(decode(tiff(values), name="a").ends_at, "a")


def test_white_at_the_top_says_that_a_dark_image_is_meant():
    picture = decode(tiff(of_bits(12)), name="a", white=65535)
    assert np.array_equal(picture.pixels, of_bits(12))
    assert (picture.ends_at, picture.notes) == (None, ())
