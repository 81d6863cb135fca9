from fractions import Fraction

import numpy as np
import pytest

from trajectory_builder.images.video import times as clock


def test_steady_times_have_no_stop():
    assert clock.irregular(np.arange(0, 1000, 10)) == {}


@pytest.mark.parametrize(
    ("step", "reason"), [(20, clock.GAP), (13, clock.GAP), (1, clock.DUPLICATE)]
)
def test_interval_off_by_more_than_a_quarter_stops_windows(step, reason):
    times = np.cumsum([0, 10, 10, 10, step, 10, 10])
    assert clock.irregular(times) == {3: reason}


@pytest.mark.parametrize("step", [8, 12])
def test_interval_within_a_quarter_passes(step):
    assert clock.irregular(np.cumsum([0, 10, 10, 10, step, 10, 10])) == {}


def test_rounding_to_milliseconds_is_no_irregularity():
    times = np.round(np.arange(100) * 1000 / 240).astype(np.int64)
    assert clock.irregular(times) == {}


def test_rate_of_rounded_times_is_right_within_a_permille():
    times = np.round(np.arange(1000) * 1000 / 240).astype(np.int64)
    assert clock.measured_fps(times, Fraction(1, 1000)) == pytest.approx(240, rel=1e-3)


def test_rate_of_ntsc_times_is_exact():
    assert clock.measured_fps(np.arange(50) * 1001, Fraction(1, 30000)) == pytest.approx(
        30000 / 1001
    )


def test_gaps_do_not_move_the_rate():
    times = np.cumsum([0] + [10] * 20 + [500] + [10] * 20)
    assert clock.measured_fps(times, Fraction(1, 2400)) == 240


def test_one_frame_has_no_rate():
    assert clock.measured_fps(np.array([5]), Fraction(1, 1000)) == 0


def test_equal_times_are_all_duplicates():
    assert clock.irregular(np.zeros(4, np.int64)) == dict.fromkeys(range(3), clock.DUPLICATE)
