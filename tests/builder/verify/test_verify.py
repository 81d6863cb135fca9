"""`verify` finds whatever differs from what was built, names it, and changes nothing."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gopro_tree import SMALL_PAIRS, load, save, three_parts, trajbuild, tree, write_small

from trajectory_builder import manifest, verify
from trajectory_builder.build import record, run
from trajectory_builder.errors import ExitCode
from trajectory_builder.plan import gopro, recipe

BLUR = "train/blur/GOPR9003_13_00/000012_n09.png"
OFFICIAL = "train/blur/GOPR9003_13_00/000012_n13.png"
SHARP = "train/sharp/GOPR9003_13_00/000012.png"


def found(folder, level="full", **options):
    return {(f.reason, f.file) for f in verify.verify_folder(folder, level, **options).findings}


def flip(path, at=0.5, bit=0):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture(scope="module")
def part_built(tmp_path_factory):
    """A build that met bad input, so that it has a problems.parquet too."""
    source = write_small(tmp_path_factory.mktemp("bad"))
    (source.frames / "train/GOPR9003_13_00/022150.png").write_bytes(b"")
    out = tmp_path_factory.mktemp("part") / "out"
    planned = gopro.plan_gopro(source.pairs, recipe.load_recipe(recipe.DEFAULT))
    report = run.build_plan(planned, out, run.BuildOptions(progress=False))
    assert report.exit_code == ExitCode.DONE_IN_PART
    return out


@pytest.fixture
def own_part(part_built, tmp_path):
    return shutil.copytree(part_built, tmp_path / "own_part")


@pytest.mark.parametrize("level", ["quick", "full"])
def test_finished_build_is_as_it_should_be(small_built, level):
    report = verify.verify_folder(small_built, level)
    assert report.findings == ()
    assert report.rows == sum(SMALL_PAIRS.values())


def test_build_with_problems_is_as_it_should_be(part_built):
    assert found(part_built) == set()


def test_problems_of_a_build_are_counted(part_built, in_process):
    count = verify.verify_folder(part_built).problems
    assert count == pq.read_metadata(part_built / "problems.parquet").num_rows > 0
    done = in_process("verify", part_built)
    assert done.returncode == 0
    assert f"{count:,} problems of the build are in problems.parquet" in done.stdout


def test_build_without_an_official_blur_leaves_no_file_without_a_row(tmp_path):
    source = write_small(tmp_path / "source")
    blur = source.pairs / "train/GOPR9001_07_00/blur/000047.png"
    blur.write_bytes(blur.read_bytes()[:100])
    planned = gopro.plan_gopro(source.pairs, recipe.load_recipe(recipe.DEFAULT))
    report = run.build_plan(planned, tmp_path / "out", run.BuildOptions(progress=False))
    assert report.exit_code == ExitCode.DONE_IN_PART
    assert found(tmp_path / "out") == set()


@pytest.mark.parametrize(
    "name",
    [
        "train/blur/GOPR9003_13_00/000013_n09.png", OFFICIAL, SHARP, "train/metadata.parquet",
        "test/metadata.parquet", "README.md", "build.json", "problems.parquet",
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_flipped_bit_is_found_in_every_kind_of_file(own_part, name, at):
    flip(own_part / name, at)
    findings = verify.verify_folder(own_part, "full").findings
    assert findings
    assert any(name in (f.file + f.what) for f in findings)


def test_flipped_bit_is_found_in_every_single_image(own_built):
    for path in sorted(own_built.rglob("*.png")):
        flip(path)
    expected = {path.relative_to(own_built).as_posix() for path in own_built.rglob("*.png")}
    assert found(own_built) == {("hash-differs", name) for name in expected}


def test_quick_level_sees_no_flipped_bit(own_built):
    flip(own_built / BLUR)
    assert found(own_built, "quick") == set()


@pytest.mark.parametrize("name", [BLUR, SHARP])
def test_missing_image_is_found_by_the_quick_level(own_built, name):
    (own_built / name).unlink()
    assert found(own_built, "quick") == {("file-missing", name)}


@pytest.mark.parametrize("name", ["train/metadata.parquet", "test/metadata.parquet"])
def test_missing_manifest_is_found(own_built, name):
    (own_built / name).unlink()
    assert ("manifest-missing", name) in found(own_built, "quick")


@pytest.mark.parametrize("name", ["README.md", "problems.parquet"])
def test_missing_small_file_is_found(own_part, name):
    (own_part / name).unlink()
    assert ("file-altered", name) in found(own_part, "quick")


def test_missing_build_record_is_found(own_built):
    (own_built / "build.json").unlink()
    assert ("record-missing", "build.json") in found(own_built, "quick")


def test_cut_image_is_found_by_the_quick_level(own_built):
    path = own_built / BLUR
    path.write_bytes(path.read_bytes()[:-1])
    assert found(own_built, "quick") == {("size-differs", BLUR)}


@pytest.mark.parametrize(
    "name", ["train/blur/GOPR9003_13_00/extra.png", "test/x.txt", "train/blur/GOPR9999/a.png"]
)
def test_extra_file_is_found(own_built, name):
    (own_built / name).parent.mkdir(exist_ok=True)
    (own_built / name).write_bytes(b"x")
    assert found(own_built, "quick") == {("file-unknown", name)}


def test_temporary_file_left_is_found(own_built):
    name = "train/blur/GOPR9003_13_00/.tmp-1-ab-000012_n09.png"
    (own_built / name).write_bytes(b"x")
    assert found(own_built, "quick") == {("temporary-left", name)}


def test_two_swapped_images_are_found(own_built):
    other = own_built / "train/blur/GOPR9003_13_00/000013_n09.png"
    (own_built / BLUR).rename(own_built / "swap")
    other.rename(own_built / BLUR)
    (own_built / "swap").rename(other)
    names = {BLUR, other.relative_to(own_built).as_posix()}
    assert {name for _, name in found(own_built)} == names


def test_image_encoded_anew_is_found(own_built):
    save(own_built / BLUR, load(own_built / BLUR))
    assert {name for _, name in found(own_built)} == {BLUR}


def test_other_pixels_under_a_true_digest_are_found(own_built):
    # Whoever writes file, manifest and record anew is still held to the pixels' own digest.
    _write_other_pixels(own_built)
    assert found(own_built) == {("pixels-differ", BLUR)}


def _write_other_pixels(folder):
    pixels = load(folder / BLUR)
    pixels[0, 0, 0] ^= 1
    save(folder / BLUR, pixels)
    payload = (folder / BLUR).read_bytes()
    read = manifest.read(folder / "train")
    rows = read.table.to_pylist()
    row = next(row for row in rows if f"train/{row['blur_file_name']}" == BLUR)
    row["blur_sha256"], row["blur_bytes"] = hashlib.sha256(payload).hexdigest(), len(payload)
    table = pa.Table.from_pylist(rows, schema=read.table.schema)
    entries = {k: v for k, v in read.metadata.items() if k != "format_version"}
    told = record.read_build(folder)
    told["manifests"]["train/metadata.parquet"]["sha256"] = manifest.write(
        table, folder / "train/metadata.parquet", entries
    )
    record.write_build(folder, told)


def test_link_out_of_the_folder_is_found(own_built, tmp_path):
    (own_built / BLUR).rename(tmp_path / "outside.png")
    (own_built / BLUR).symlink_to(tmp_path / "outside.png")
    assert found(own_built, "quick") == {("link-outside", BLUR)}


def test_build_of_links_passes_when_links_are_allowed(small_source, tmp_path):
    planned = gopro.plan_gopro(small_source.pairs, recipe.load_recipe("official"))
    run.build_plan(planned, tmp_path / "out", run.BuildOptions(link="symlink", progress=False))
    assert found(tmp_path / "out", allow_links=True) == set()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "{", '{"sha256": 1}', "[" * 5000])
def test_nonsense_as_build_record_is_found(own_built, text):
    (own_built / "build.json").write_text(text)
    assert ("record-altered", "build.json") in found(own_built, "quick")


def test_build_record_that_is_not_text_is_found(own_built):
    (own_built / "build.json").write_bytes(b"\xff\xfe\x00")
    assert ("record-altered", "build.json") in found(own_built, "quick")


def test_state_is_not_needed_to_verify(own_built):
    shutil.rmtree(own_built / ".trajbuild")
    assert found(own_built) == set()


def test_verify_changes_nothing(own_built):
    flip(own_built / BLUR)
    (own_built / SHARP).unlink()
    before = tree(own_built)
    found(own_built)
    assert tree(own_built) == before


def test_jobs_do_not_change_the_findings(own_built):
    flip(own_built / BLUR)
    flip(own_built / SHARP)
    assert found(own_built, jobs=2) == found(own_built, jobs=1)


def test_command_ends_with_three_where_something_is_wrong(own_built):
    (own_built / BLUR).unlink()
    done = trajbuild("verify", own_built)
    assert done.returncode == 3
    assert f"file-missing: a file of the manifest is not there: {BLUR[6:]}" in done.stdout
    assert "cure:" in done.stdout


def test_command_ends_with_zero_where_all_is_well(small_built):
    done = trajbuild("verify", small_built, "--level", "full", "--jobs", "1", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"] == []


@pytest.mark.parametrize(("name", "code"), [("absent", 2), ("empty", 1)])
def test_folder_without_a_data_set_is_one_clear_error(tmp_path, name, code):
    (tmp_path / "empty").mkdir()
    done = trajbuild("verify", tmp_path / name)
    assert done.returncode == code
    assert all(three_parts(done.stderr))


def test_restored_build_is_as_it_should_be(small_source, own_built):
    (own_built / BLUR).unlink()
    (own_built / SHARP).unlink()
    planned = gopro.plan_gopro(small_source.pairs, recipe.load_recipe(recipe.DEFAULT))
    run.build_plan(planned, own_built, run.BuildOptions(progress=False))
    assert found(own_built) == set()
