"""Drawn scenes as files, and the data set that `trajbuild generate --scenes` makes of them."""

import pytest

from trajectory_builder import manifest
from trajectory_builder.cli import main
from trajectory_builder.errors import OutputError
from trajectory_builder.images.png import decode_png
from trajectory_builder.sample.drawn import write_scenes


def test_scenes_repeat_and_those_that_exist_are_kept(tmp_path):
    first = write_scenes(tmp_path / "a", 3, side=64)
    payloads = [path.read_bytes() for path in first]
    first[1].unlink()
    again = write_scenes(tmp_path / "a", 3, side=64)
    assert [path.read_bytes() for path in again] == payloads
    assert decode_png(payloads[0], name="scene").shape == (84, 84, 3)


def test_another_seed_gives_other_scenes(tmp_path):
    (one,), (other,) = (write_scenes(tmp_path / str(s), 1, side=64, seed=s) for s in (0, 1))
    assert one.read_bytes() != other.read_bytes()


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.png").touch()
    with pytest.raises(OutputError, match="contains other files"):
        write_scenes(tmp_path, 2, side=64)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_generate_makes_a_set_of_drawn_scenes_that_verifies(tmp_path):
    command = ["generate", "--scenes", 2, "--src", tmp_path / "scenes", "--out", tmp_path / "set",
               "--scene-size", 64, "--n-frames", "3,7", "--backend", "threading"]  # fmt: skip
    assert run(*command) == 0
    table = manifest.read(tmp_path / "set").table
    assert table.num_rows == 4
    assert set(table["origin"].to_pylist()) == {"synthetic"}
    assert set(table["width"].to_pylist()) == {64}
    assert all(table["kernel_path"].to_pylist())
    assert run(*command) == 0
    assert run("verify", tmp_path / "set", "--level", "full") == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scenes", "0"], "--scenes"),
        (["--scenes", "2", "--scene-size", "8"], "--scene-size"),
        (["--scenes", "2", "--src", "other"], "FOOTAGE"),
    ],
)
def test_scenes_that_cannot_be_are_one_error(arguments, named, tmp_path, capsys):
    base = ["generate", "--src", tmp_path / "scenes", "--out", tmp_path / "set"]
    assert run(*base, *arguments) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "scenes").exists()
