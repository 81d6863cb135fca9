import numpy as np
import pytest
from footage_maker import pan, write_video

from trajectory_builder.errors import VideoError
from trajectory_builder.images.video import hdr
from trajectory_builder.images.video import reading as video

X265 = {"x265-params": "log-level=none:pools=1", "crf": "4"}


def grey(value):
    """A small frame of one stored grey, full scale 1."""
    return np.full((2, 2, 3), round(value * 65535), np.uint16)


def pq_signal(light):
    """The inverse of PQ's EOTF (BT.2100-2, table 4), light in cd/m2."""
    m_1, m_2 = 2610 / 16384, 2523 / 32
    c_1, c_2, c_3 = 3424 / 4096, 2413 / 128, 2392 / 128
    root = (light / 1e4) ** m_1
    return ((c_1 + c_2 * root) / (1 + c_3 * root)) ** m_2


def hlg_signal(scene):
    """HLG's OETF (BT.2100-2, table 5), scene light 0 to 1."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    )


def test_hlg_curve_undoes_the_standards_oetf():
    scene = np.linspace(0.01, 1, 50)
    assert np.abs(hdr.hlg_scene_light(hlg_signal(scene)) - scene).max() < 1e-6


def test_pq_curve_undoes_the_standards_inverse():
    light = np.geomspace(0.01, 1e4, 50)
    assert np.abs(hdr.pq_display_light(pq_signal(light)) / light - 1).max() < 1e-9


@pytest.mark.parametrize("transfer", [hdr.HLG, hdr.PQ])
def test_reference_white_has_the_signal_that_the_report_names(transfer):
    # BT.2408-7, table 1: 75 % of HLG, 58 % of PQ.
    if transfer == hdr.HLG:
        scene = hdr.hlg_scene_light(np.array([0.75]))
        light = 1000 * scene**1.2
    else:
        light = hdr.pq_display_light(np.array([0.58]))
    assert light[0] == pytest.approx(203, rel=0.02)


@pytest.mark.parametrize("light", [0.1, 1, 10, 40, 100])
def test_light_below_the_knee_is_kept(light):
    stored = (light / 203) ** (1 / 2.4) * 255
    from_pq = hdr.to_sdr(grey(pq_signal(light)), hdr.PQ)
    scene = (light / 1000) ** (1 / 1.2)
    from_hlg = hdr.to_sdr(grey(float(hlg_signal(scene))), hdr.HLG)
    for found in (from_pq, from_hlg):
        assert np.abs(found - stored).max() <= 0.6


@pytest.mark.parametrize("transfer", [hdr.HLG, hdr.PQ])
def test_brighter_greys_stay_brighter_and_grey(transfer):
    values = np.array([hdr.to_sdr(grey(v), transfer)[0, 0] for v in np.linspace(0, 1, 60)], int)
    assert (np.diff(values[:, 1]) >= 0).all()
    assert np.ptp(values, axis=1).max() <= 1
    assert (values[0].max(), values[-1].min()) == (0, 255)


def test_roll_off_is_smooth_and_ends_at_the_peak():
    light = np.linspace(0, 1000 / 203, 2000, dtype=np.float32)
    slopes = np.diff(hdr.rolled_off(light)) / np.diff(light)
    assert slopes.min() > 0
    assert np.abs(np.diff(slopes)).max() < 0.02
    assert hdr.rolled_off(light)[-1] == pytest.approx(1, abs=1e-5)


def test_primaries_of_bt709_come_out_pure():
    # BT.709 red in BT.2020 light, by the inverse of BT.2087's matrix, at 50 cd/m2.
    mix = np.linalg.inv(hdr._TO_709)[:, 0] * 50
    pixels = np.round(pq_signal(np.maximum(mix, 0)) * 65535).astype(np.uint16)
    red, green, blue = hdr.to_sdr(np.tile(pixels, (2, 2, 1)), hdr.PQ)[0, 0]
    assert red == pytest.approx((50 / 203) ** (1 / 2.4) * 255, abs=1)
    assert max(green, blue) <= 8


@pytest.mark.parametrize(("tag", "transfer"), [(18, hdr.HLG), (16, hdr.PQ)])
def test_hdr_video_is_converted_on_wish_alone(tmp_path, tag, transfer):
    frames = [np.full((64, 96, 3), 128, np.uint8)] * 3
    path = write_video(
        tmp_path / "h.mp4", frames, codec="libx265", pix_fmt="yuv420p10le", options=X265,
        tags={"color_trc": tag, "colorspace": 9, "color_primaries": 9},
    )  # fmt: skip
    with pytest.raises(VideoError, match="HDR") as caught:
        video.index(path)
    assert "--hdr convert" in caught.value.cure
    found = video.index(path, hdr="convert")
    pixels = next(video.decode(video.stretch(found, 0, 3)))
    true = hdr.to_sdr(grey(128 / 255), transfer)[0, 0]
    assert np.abs(pixels.astype(int) - true).max() <= 3


def test_ordinary_video_is_not_touched(tmp_path):
    path = write_video(tmp_path / "o.mp4", pan(3))
    found = video.index(path, hdr="convert")
    assert (next(video.decode(video.stretch(found, 0, 1))) == pan(3)[0]).all()
