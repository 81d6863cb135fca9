import numpy as np
import pytest
from footage_maker import pan

from trajectory_builder.errors import UsageError
from trajectory_builder.pixels import camera
from trajectory_builder.pixels.camera import Drawn


def to_light(value):
    """sRGB's own formula (IEC 61966-2-1), in float64."""
    value = np.asarray(value, np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def to_value(light):
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def expose(frames, sizes, name="clip/0", seed=0, **settings):
    return camera.expose(frames, sizes, Drawn(**{"response": "srgb"} | settings), name, seed)


def test_mean_is_that_of_light():
    frames = pan(5, 3)
    true = np.rint(to_value(np.mean([to_light(frame) for frame in frames], axis=0)))
    assert np.abs(expose(frames, [5])[5] - true).max() <= 1


def test_mean_of_light_differs_from_the_mean_of_values():
    black_and_white = [np.full((4, 4, 3), v, np.uint8) for v in (0, 250, 0)]
    assert abs(int(expose(black_and_white, [3])[3][0, 0, 0]) - 250 / 3) > 50


def test_gamma_response_is_a_power():
    frames = [np.full((4, 4, 3), v, np.uint8) for v in (20, 100, 200)]
    true = 255 * np.mean([(v / 255) ** 2.2 for v in (20, 100, 200)]) ** (1 / 2.2)
    assert expose(frames, [3], response="gamma2.2")[3][0, 0, 0] == round(true)


def test_curve_file_is_followed(tmp_path):
    curve = tmp_path / "curve.txt"
    curve.write_text("0 0\n0.5, 0.8\n1 1\n")
    frames = [np.full((2, 2, 3), v, np.uint8) for v in (0, 204, 204)]
    # 204 / 255 = 0.8 is light 0.5; the mean 1/3 is stored as 0.8 x 2/3.
    assert expose(frames, [3], response=str(curve))[3][0, 0, 0] == round(255 * 0.8 * 2 / 3)


def test_frames_without_motion_come_back():
    frame = pan(1)[0]
    assert np.abs(expose([frame] * 3, [3])[3].astype(int) - frame).max() == 0


def test_windows_are_nested_round_the_middle():
    frames = pan(9)
    assert (expose(frames, [3, 9])[3] == expose(frames[3:6], [3])[3]).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0, 4.5])
def test_saturated_length_of_a_moving_light_is_the_closed_form(factor):
    """A clipped square of 9 pixels moves 1 a frame over black, 5 frames.

    Position j of the track is covered by c(j) frames, so its light is factor x c / 5, which is
    clipped where c >= 5 / factor.
    """
    frames = []
    for shift in range(5):
        frame = np.zeros((3, 40, 3), np.uint8)
        frame[:, 10 + shift : 19 + shift] = 255
        frames.append(frame)
    covered = np.sum([frame[0, :, 0] > 0 for frame in frames], axis=0)
    blur = expose(frames, [5], highlight=factor)[5]
    assert (blur[0, :, 0] == 255).sum() == (covered * factor >= 5 - 1e-9).sum()


@pytest.mark.parametrize("light", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("n", [3, 13])
def test_noise_variance_against_signal(light, n):
    shot, read = 4e-4, 2e-5
    flat = np.full((400, 400, 3), light, np.float32)
    noisy = camera.add_noise(flat, n, shot, read, camera.generator(1, "x"))
    expected = (1 - 1 / n) * (shot * light + read)
    assert noisy.var() == pytest.approx(expected, rel=0.02)
    assert noisy.mean() == pytest.approx(light, rel=2e-3)


def test_noise_of_a_mean_of_noisy_frames_returns_to_one_exposure():
    random = np.random.default_rng(0)
    shot, light, n = 1e-3, 0.3, 5
    frames = random.normal(light, np.sqrt(shot * light), (n, 300, 300, 1))
    blur = camera.add_noise(
        frames.mean(axis=0).astype(np.float32), n, shot, 0, camera.generator(2, "y")
    )
    assert blur.var() == pytest.approx(shot * light, rel=0.03)


def test_one_frame_gets_no_noise():
    flat = np.full((4, 4, 3), 0.5, np.float32)
    assert (camera.add_noise(flat, 1, 0.1, 0.1, camera.generator(0)) == flat).all()


def test_noise_depends_on_the_name_alone():
    frames = [np.full((16, 16, 3), 90, np.uint8)] * 3
    once, again = (expose(frames, [3], shot=0.001)[3] for _ in range(2))
    other = expose(frames, [3], name="clip/1", shot=0.001)[3]
    assert (once == again).all()
    assert (once != other).any()


def test_noise_is_the_same_on_every_machine():
    assert camera.generator(7, "clip/3", "path").integers(0, 1 << 32) == 904101605


def test_compression_changes_little_and_something():
    frames = pan(3, width=95, height=63)
    plain, coded = expose(frames, [3])[3], expose(frames, [3], jpeg=50)[3]
    difference = np.abs(plain.astype(int) - coded)
    assert coded.shape == plain.shape
    assert 0 < difference.mean() < 25


def test_lower_jpeg_quality_loses_more():
    frames = pan(3)
    plain = expose(frames, [3])[3].astype(int)
    losses = [np.abs(plain - expose(frames, [3], jpeg=q)[3]).mean() for q in (95, 70, 20)]
    assert losses == sorted(losses)


def test_settings_come_back_from_their_text():
    text = "response=gamma2.2,highlight=1..4,shot=0.001,jpeg=80..95"
    settings = camera.parse(text)
    assert camera.parse(settings.as_text()) == settings


def test_drawn_values_are_in_their_span():
    settings = camera.parse("highlight=1..4,jpeg=80..95")
    drawn = [camera.draw(settings, f"clip/{i}", 0) for i in range(200)]
    assert all(1 <= one.highlight <= 4 and 80 <= one.jpeg <= 95 for one in drawn)
    assert len({one.jpeg for one in drawn}) > 10


def test_draw_depends_on_name_and_seed():
    settings = camera.parse("highlight=1..4")
    assert camera.draw(settings, "a/1", 0) == camera.draw(settings, "a/1", 0)
    assert camera.draw(settings, "a/1", 0) != camera.draw(settings, "a/1", 1)


@pytest.mark.parametrize(
    "text",
    [
        "contrast=2",
        "highlight",
        "highlight=bright",
        "highlight=0.5",
        "highlight=4..1",
        "jpeg=0",
        "h264=20",
        "shot=1,shot=2",
        "response=/no/such/curve.txt",
    ],
)
def test_settings_that_cannot_be_are_refused(text):
    with pytest.raises(UsageError) as caught:
        camera.parse(text)
    assert "--camera" in caught.value.cure
    assert caught.value.where


@pytest.mark.parametrize("table", ["0 0\n", "0 0\n1 0.5\n", "0 0\n0.6 0.5\n0.5 0.7\n1 1\n", "a"])
def test_curve_files_that_cannot_be_are_refused(tmp_path, table):
    (tmp_path / "c.txt").write_text(table)
    with pytest.raises(UsageError):
        camera.response_curve(str(tmp_path / "c.txt"))
