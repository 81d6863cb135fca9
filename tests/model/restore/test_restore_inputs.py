"""`fidediff restore` on inputs that say little of themselves: white, kinds that are not read."""

import json

import numpy as np
import pytest
import tifffile
from small_model import cli, folder_of, scene

from trajectory_builder.images.pictures import read

NOT_READ = ["a.gif", "b.bmp", "c.jp2", "d.jxl", "e.nef", "f.wmv", "g.gif"]


def twelve_bits(path):
    """A TIFF of 12 bits in 16 without a tag that says so; its values, (H, W, 3)."""
    values = np.rint(scene(24, 32) / 255 * 4095).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, photometric="rgb")
    return values


def restore(source, out, *options):
    return cli("restore", source, "--model", folder_of(), "--out", out, "--strength", "0", *options)


def records(out):
    lines = (out / "restored.jsonl").read_text().splitlines()
    return {record["target"]: record for record in map(json.loads, lines)}


def test_white_scales_the_output_and_is_recorded(tmp_path):
    values = twelve_bits(tmp_path / "in/a.tif")
    assert restore(tmp_path / "in", tmp_path / "out", "--white", "4095") == 0
    restored = read(tmp_path / "out/a.tif").pixels
    assert np.abs(restored - values * (65535 / 4095)).max() <= 1
    record = records(tmp_path / "out")["a.tif"]
    assert record["settings"]["white"] == 4095
    assert "values up to 4,095 became values up to 65,535" in record["notes"]


def test_sixteen_bits_that_end_low_are_kept_and_reported(tmp_path):
    values = twelve_bits(tmp_path / "in/a.tif")
    assert restore(tmp_path / "in", tmp_path / "out") == 0
    assert np.abs(read(tmp_path / "out/a.tif").pixels.astype(int) - values).max() <= 1
    record = records(tmp_path / "out")["a.tif"]
    assert any("--white 4095 scales" in note for note in record["notes"])
    assert "white" not in record["settings"]


def test_eight_bits_of_them_are_refused_without_white(tmp_path, capsys):
    values = twelve_bits(tmp_path / "a.tif")
    assert restore(tmp_path / "a.tif", tmp_path / "b.jpg") == 1
    assert "--white 4095" in capsys.readouterr().err
    assert not (tmp_path / "b.jpg").exists()
    assert restore(tmp_path / "a.tif", tmp_path / "b.jpg", "--white", "4095") == 0
    assert abs(read(tmp_path / "b.jpg").pixels.mean() - values.mean() * 255 / 4095) < 2


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with one good picture and seven files of kinds that are not read; the code."""
    root = tmp_path_factory.mktemp("mixed")
    twelve_bits(root / "in/good.tif")
    for name in NOT_READ:
        (root / "in" / name).write_bytes(b"of another kind")
    (root / "in/._good.tif").write_bytes(b"a Mac was here")
    return root, restore(root / "in", root / "out", "--white", "4095")


def test_kinds_that_are_not_read_are_recorded_and_the_batch_goes_on(mixed):
    root, code = mixed
    assert code == 4
    found = records(root / "out")
    assert {name for name, record in found.items() if "failed" in record} == {*NOT_READ}
    assert all(found[name]["failed"]["cure"] for name in NOT_READ)
    assert (root / "out/good.tif").exists()


def test_kinds_that_are_not_read_are_counted_and_the_rest_is_in_the_record(mixed, capsys):
    root, _ = mixed
    assert restore(root / "in", root / "out", "--white", "4095") == 4
    printed = capsys.readouterr().err
    assert "7 files are of kinds that are not read: .gif (2)" in printed
    assert f"failed: and 2 more, all named in {root / 'out' / 'restored.jsonl'}" in printed
