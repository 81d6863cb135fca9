import cv2
import numpy as np
import pytest
from footage_maker import pan
from skimage import data
from skimage.metrics import peak_signal_noise_ratio as psnr

from trajectory_builder.pixels import interpolation

SCENE = cv2.resize(data.astronaut(), (500, 300))
FRONT = cv2.resize(data.chelsea(), (90, 70))


def seen(time):
    """A pan of 8 pixels from time 0 to 1, and in front of it a cat that goes the other way."""
    moved = cv2.warpAffine(SCENE, np.float32([[1, 0, -8 * time - 20], [0, 1, -10]]), (240, 160))
    place = np.float32([[1, 0, 60 + 7 * time], [0, 1, 40]])
    front = cv2.warpAffine(FRONT, place, (240, 160))
    mask = cv2.warpAffine(np.ones(FRONT.shape[:2], np.float32), place, (240, 160))[..., None]
    return np.rint(moved * (1 - mask) + front * mask).astype(np.uint8)


FIRST, LAST = seen(0), seen(1)


@pytest.fixture(scope="module")
def drawn():
    return interpolation.between(FIRST, LAST, 3)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_drawn_frame_is_nearer_to_the_true_one_than_a_fade(drawn, k):
    time = (k + 1) / 4
    true = seen(time)
    fade = np.rint(FIRST * (1 - time) + LAST * time).astype(np.uint8)
    assert psnr(true, drawn[k]) > psnr(true, fade) + 4


def test_blur_of_drawn_frames_beats_blur_of_the_two(drawn):
    true = np.mean([seen(i / 4) for i in range(5)], axis=0)
    smooth = np.mean([FIRST, *drawn, LAST], axis=0)
    plain = np.mean([FIRST, LAST], axis=0)
    assert psnr(true, smooth, data_range=255) > psnr(true, plain, data_range=255) + 6


def test_equal_frames_give_that_frame():
    assert all((one == FIRST).all() for one in interpolation.between(FIRST, FIRST, 2))


def test_whole_pixel_pan_is_drawn_nearly_exactly():
    frames = pan(3, 4, width=160, height=120)
    middle = interpolation.between(frames[0], frames[2], 1)[0]
    inside = np.s_[8:-8, 16:-16]
    assert np.abs(middle[inside].astype(int) - frames[1][inside]).mean() < 2


def test_time_runs_the_same_way_backwards():
    there = interpolation.between(FIRST, LAST, 3)
    back = interpolation.between(LAST, FIRST, 3)
    assert psnr(there[0], back[2]) > 45


def test_agreement_falls_where_pixels_are_hidden():
    forward = interpolation.optical_flow(FIRST, LAST)
    backward = interpolation.optical_flow(LAST, FIRST)
    trust = interpolation.agreement(forward, backward)
    hidden = trust[45:105, 152:156]  # the strip before the cat's nose, which it will cover
    open_ground = trust[120:150, 60:180]
    assert hidden.mean() < open_ground.mean() - 0.3


def test_agreement_of_true_flows_is_one():
    forward = np.zeros((20, 30, 2), np.float32) + np.float32([2, -1])
    assert interpolation.agreement(forward, -forward).min() == pytest.approx(1)


def test_sixteen_bits_stay_sixteen():
    deep = [frame.astype(np.uint16) * 257 for frame in (FIRST, LAST)]
    middle = interpolation.between(*deep, 1)[0]
    shallow = interpolation.between(FIRST, LAST, 1)[0]
    assert middle.dtype == np.uint16
    assert psnr(shallow, (middle / 257).round().astype(np.uint8)) > 45


def test_frames_as_shot_pass_through_untouched():
    frames = list(enumerate(pan(3, 2)))
    found = dict(interpolation.upsampled(frames, 3, [range(9)]))
    assert sorted(found) == list(range(9))
    assert all((found[4 * rank] == pixels).all() for rank, pixels in frames)


def test_only_wanted_frames_are_drawn():
    found = dict(interpolation.upsampled(enumerate(pan(4, 2)), 1, [range(2, 5)]))
    assert sorted(found) == [0, 2, 3, 4, 6]


def test_lost_frame_leaves_its_neighbourhood_lost():
    frames = [(0, pan(1)[0]), (1, None), (2, pan(1)[0])]
    found = dict(interpolation.upsampled(frames, 1, [range(5)]))
    assert [rank for rank, pixels in found.items() if pixels is None] == [1, 2, 3]
