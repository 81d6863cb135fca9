"""`trajbuild doctor`: findings about the real machine, and about sources made for the test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trajectory_builder import doctor as doctors
from trajectory_builder.doctor import blocking, examine
from trajectory_builder.images import png as images


def doctor(*args: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Run the command; `path` goes before everything that is installed."""
    variables = {**os.environ, **environment}
    if path is not None:
        variables["PYTHONPATH"] = f"{path}{os.pathsep}{variables.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "trajectory_builder", "doctor", *args]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)


def found(said: subprocess.CompletedProcess, name: str) -> dict:
    return next(f for f in json.loads(said.stdout)["findings"] if f["name"] == name)


@pytest.fixture(scope="module")
def said() -> subprocess.CompletedProcess:
    return doctor("--json")


def test_nothing_blocks_where_the_tests_run(said):
    assert said.returncode == 0, said.stderr


def test_json_is_one_object_with_every_finding_once(said):
    names = [finding["name"] for finding in json.loads(said.stdout)["findings"]]
    expected = {"python", "packages", "opencv", "extras", "codecs", "source", "space"}
    assert set(names) == expected
    assert len(names) == len(set(names))


def test_measured_codecs_are_the_ones_that_builds_use(said):
    values = found(said, "codecs")["values"]
    assert {role: values[role] for role in ("reader", "writer")} == images.codecs()


def test_measured_speed_is_a_plausible_time_for_a_frame(said):
    values = found(said, "codecs")["values"]
    assert 0.5 < values["decode_ms"] < 5000
    assert 0.5 < values["encode_ms"] < 5000


def test_free_space_is_that_of_the_file_system(tmp_path):
    status = os.statvfs(tmp_path)
    free = doctors.space(tmp_path / "not" / "there", None).values["free_bytes"]
    assert free == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)


def test_a_build_larger_than_the_disk_blocks(tmp_path):
    finding = doctors.space(tmp_path / "out", 1 << 60)
    assert finding.state == "blocks"
    assert "--files hardlink" in finding.cure


def test_doctor_does_not_import_torch():
    code = (
        "import sys; from trajectory_builder.doctor import examine; examine();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.fixture
def broken_cv2(tmp_path) -> Path:
    """What is left of `cv2` when one of its two owners was uninstalled."""
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text("raise ImportError('libGL.so.1 is gone')\n")
    return tmp_path


def test_a_cv2_that_cannot_be_imported_ends_with_one_and_no_traceback(broken_cv2):
    said = doctor(path=broken_cv2)
    assert (said.returncode, "Traceback" in said.stderr) == (1, False)


def test_a_cv2_that_cannot_be_imported_is_told_with_its_cure(broken_cv2):
    lines = doctor(path=broken_cv2).stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("BLOCKS opencv"))
    assert "libGL.so.1 is gone" in lines[at]
    assert "pip install opencv-python-headless" in lines[at + 1]


def test_an_old_package_blocks_with_the_upgrade(tmp_path):
    home = tmp_path / "tqdm-3.0.dist-info"
    home.mkdir()
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 3.0\n")
    said = doctor("--json", path=tmp_path)
    finding = found(said, "packages")
    if not json.loads(said.stdout)["findings"] or "tqdm" not in finding["values"]["versions"]:
        pytest.skip("fidediff is not installed here, so it declares no floors")
    assert finding["state"] == "blocks"
    assert "tqdm 3.0 (needs 4.66" in finding["text"]


def test_a_source_that_is_no_gopro_blocks(tmp_path):
    said = doctor("--json", "--src", str(tmp_path))
    assert said.returncode == 1
    assert found(said, "source")["state"] == "blocks"


@pytest.fixture(scope="module")
def gopro(tmp_path_factory) -> Path:
    """Two short sequences of both trees; the names alone are looked at."""
    root = tmp_path_factory.mktemp("gopro")
    png = images.encode_png(doctors._synthetic_frame()[:8, :8])
    for split, sequence in (("train", "GOPR9001_11_00"), ("test", "GOPR9002_11_00")):
        frames = root / "GOPRO_Large_all" / split / sequence
        frames.mkdir(parents=True)
        for number in range(1, 34):
            (frames / f"{number:06d}.png").write_bytes(png)
        for kind in ("blur", "sharp"):
            pairs = root / "GOPRO_Large" / split / sequence / kind
            pairs.mkdir(parents=True)
            for number in (6, 7, 8):
                (pairs / f"{number:06d}.png").write_bytes(png)
    return root / "GOPRO_Large"


def test_a_whole_source_is_good_and_counted(gopro):
    finding = next(f for f in examine(gopro) if f.name == "source")
    assert finding.state == "good", finding.text
    assert finding.values["counts"]["train"]["pairs"] == 3 + 3 * 3


def test_space_needed_is_told_for_a_source(gopro):
    finding = next(f for f in examine(gopro) if f.name == "space")
    assert finding.values["needed_bytes"] > 0


def test_a_small_need_is_told_in_megabytes(gopro):
    text = next(f for f in examine(gopro) if f.name == "space").text
    assert re.search(r"about [\d.]+ MB needed", text), text


def test_all_lines_for_people_go_to_stdout():
    done = doctor()
    assert done.stdout.splitlines()[-1] == "nothing prevents a build"
    assert done.stderr == ""


def test_a_missing_pair_of_the_source_is_noted_with_a_cure(gopro):
    lost = gopro / "train" / "GOPR9001_11_00" / "blur" / "000007.png"
    kept = lost.read_bytes()
    lost.unlink()
    try:
        finding = next(f for f in examine(gopro) if f.name == "source")
    finally:
        lost.write_bytes(kept)
    assert finding.state == "note"
    assert "000007" in finding.text
    assert finding.cure


def test_pairs_without_frames_block_and_say_where_frames_are(gopro, tmp_path):
    alone = tmp_path / "GOPRO_Large"
    alone.symlink_to(gopro)
    only_pairs = tmp_path / "copy" / "GOPRO_Large"
    only_pairs.parent.mkdir()
    subprocess.run(["cp", "-r", str(gopro), str(only_pairs)], check=True)
    found_now = examine(only_pairs)
    assert [f.name for f in blocking(found_now)] == ["source"]
    assert "GOPRO_Large_all" in blocking(found_now)[0].cure
