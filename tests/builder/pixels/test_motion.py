import cv2
import numpy as np
import pytest
from footage_maker import pan, texture

from trajectory_builder.pixels import motion


def smalls(frames):
    return [motion.small(frame) for frame in frames]


def interruption(frames):
    return motion.interruption(smalls(frames))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_displacement_of_a_pan_is_its_step(step):
    first, last = smalls(pan(2, step, width=320, height=240))
    median, most = motion.displacement(first, last)
    assert median == pytest.approx(step, abs=0.3)
    assert most == pytest.approx(step, abs=0.5)


def test_displacement_is_in_pixels_of_the_full_frame():
    wide = np.repeat(np.repeat(texture(360, 660), 2, 0), 2, 1)
    first, last = smalls([wide[:, :1280], np.ascontiguousarray(wide[:, 12:1292])])
    assert first.scale == 4
    assert motion.displacement(first, last)[0] == pytest.approx(12, abs=1)


def test_way_over_nested_windows_grows_by_their_steps():
    frames = smalls(pan(13, 2, width=320, height=240))
    found = [median for median, _ in motion.growing_displacement(frames, [2, 3, 4, 5, 6])]
    assert found == pytest.approx([8, 12, 16, 20, 24], abs=1)


def test_way_there_and_back_is_none():
    there = pan(7, 2, width=320, height=240)
    frames = smalls([*there[3::-1], *there[1:4]])
    assert motion.growing_displacement(frames, [3])[0][0] < 0.3


def test_still_picture_does_not_move():
    first, last = smalls([pan(1)[0]] * 2)
    assert max(motion.displacement(first, last)) < 0.05


def test_what_moves_alone_counts_in_the_percentile():
    back = texture(240, 320, seed=1)
    front = texture(240, 320, seed=2)
    frames = []
    for x in (0, 6):
        frame = back.copy()
        frame[60:180, 80 + x : 240 + x] = front[60:180, 80:240]
        frames.append(frame)
    median, most = motion.displacement(*smalls(frames))
    assert median < 1
    assert most == pytest.approx(6, abs=1)


def test_sixteen_bit_frames_are_seen_as_their_upper_bytes():
    frame = pan(1)[0]
    assert (motion.small(frame.astype(np.uint16) << 8).gray == motion.small(frame).gray).all()


def test_cut_inside_a_window_is_found():
    frames = pan(6, seed=1) + pan(7, seed=2)
    assert interruption(frames) == motion.SCENE_CUT


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_cut_is_found_in_a_window_of_five(place):
    frames = pan(place, seed=1) + pan(5 - place, seed=2)
    assert interruption(frames) == motion.SCENE_CUT


@pytest.mark.parametrize("step", [1, 4, 12])
def test_pan_is_no_cut_however_fast(step):
    assert interruption(pan(13, step)) is None


def test_repeated_frame_is_found():
    frames = pan(13, 3)
    frames[6] = frames[5]
    assert interruption(frames) == motion.REPEATED


def test_still_window_has_no_repeated_frame():
    assert interruption([pan(1)[0]] * 9) is None


def test_two_frames_have_nothing_to_compare():
    assert interruption(pan(2)) is None


def test_jerk_is_no_cut():
    scene = cv2.resize(texture(60, 200), None, fx=4, fy=4)
    places = [0, 1, 2, 3, 4, 5, 25, 26, 27, 28, 29]
    frames = [np.ascontiguousarray(scene[:, x : x + 320]) for x in places]
    steps = motion.steps(smalls(frames))
    assert steps[5] > motion.CUT_DIFFERENCE
    assert steps[5] > motion.CUT_RATIO * np.median(steps)
    assert interruption(frames) is None


@pytest.mark.parametrize(("turns", "orientation"), [(0, 1), (1, 8), (2, 3), (3, 6)])
def test_stored_luma_gives_nearly_the_small_copy_of_the_picture(turns, orientation):
    gray = texture(200, 300)[..., 0]
    stored = (16 + gray.astype(float) * 219 / 255).round().astype(np.uint8)
    upright = np.dstack([np.rot90(gray, turns)] * 3)
    found = motion.small_of_luma(stored, full_range=False, orientation=orientation)
    true = motion.small(np.ascontiguousarray(upright))
    assert found.scale == true.scale
    assert np.abs(found.gray.astype(int) - true.gray).max() <= 1


@pytest.mark.parametrize("step", [0.5, 2, 7])
@pytest.mark.parametrize("across", [True, False])
def test_parallel_stripes_move_by_their_shift(step, across):
    x = np.arange(160)
    first, last = (np.rint(128 + 100 * np.sin((x + k) / 9)).astype(np.uint8) for k in (0, step))
    small = [motion.small(as_stripes(one, across)) for one in (first, last)]
    assert motion.displacement(*small) == pytest.approx((step, step), abs=0.1)
    assert not motion.is_unexplained(*small)


def test_two_kinds_of_stripes_are_no_shift_of_one_another():
    x = np.arange(160)
    first, last = (np.rint(128 + 100 * np.sin(x / w)).astype(np.uint8) for w in (9, 23))
    small = [motion.small(as_stripes(one, across=True)) for one in (first, last)]
    assert motion.displacement(*small) == (0, 0)


def as_stripes(line, across):
    stripes = np.repeat(np.repeat(line[None], 96, axis=0)[:, :, None], 3, axis=2)
    return stripes if across else np.ascontiguousarray(stripes.swapaxes(0, 1))
