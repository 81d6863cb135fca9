"""The release: sdist and wheel are whole, and an installed wheel works without the checkout."""

import configparser
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

from trajectory_builder.version import __version__

ROOT = Path(__file__).parents[1]
DATA = {
    "trajectory_builder/py.typed",
    "trajectory_builder/sources/gopro_sequences.csv",
    "trajectory_builder/report/report.html",
    "trajectory_builder/report/report.css",
    "trajectory_builder/report/report.js",
    "fidediff_model/py.typed",
    "fidediff_model/weights/perceptual_heads.safetensors",
}
FIRST_LINE = re.compile(r"^Usage: (trajbuild|fidediff)")


def run(*words, cwd=ROOT, **env):
    """Run a command; its stdout, or a failed test with all that it said."""
    # A PYTHONPATH of the user's would bring this checkout in the place of what was installed.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(os.fspath, words)), cwd=cwd, env={**inherited, **env}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(*under):
    return set(run("git", "ls-files", *under).split())


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, made of what git tracks alone, and the wheel made of that sdist."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to leave out what lies about")
    pytest.importorskip("build", reason="needs build")
    pytest.importorskip("twine", reason="needs twine")
    room = tmp_path_factory.mktemp("release")
    clone, out = room / "clone", room / "dist"
    clone.mkdir()
    for name in tracked():
        target = clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, clone, cwd=room)
    return out


@pytest.fixture(scope="module")
def wheel(dist):
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """bin folder of a fresh environment with the wheel; the dependencies are this environment's."""
    room = tmp_path_factory.mktemp("fresh")
    venv.create(room / "env", with_pip=True)
    python = room / "env/bin/python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=room)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # After the environment's own packages, so that the wheel's come first. This checkout may be
    # installed there in the editable way, by a finder: such lines are not taken over.
    here = sysconfig.get_path("purelib")
    lines = [line for file in Path(here).glob("*.pth") for line in file.read_text().splitlines()]
    paths = [line for line in lines if line.startswith("/")]
    paths = [here, *(path for path in paths if not Path(path, "fidediff_model").is_dir())]
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return room / "env/bin"


@pytest.mark.slow
def test_descriptions_of_sdist_and_wheel_render(dist):
    said = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))
    assert said.count("PASSED") == 2


@pytest.mark.slow
def test_wheel_holds_every_tracked_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == tracked("trajectory_builder", "fidediff_model")
    assert held >= DATA


@pytest.mark.slow
def test_wheel_holds_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("LICENSE") for name in archive.namelist())


@pytest.mark.slow
def test_sdist_holds_what_the_wheel_is_made_of(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = tracked("trajectory_builder", "fidediff_model")
    assert wanted | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= held


@pytest.mark.slow
def test_wheel_names_version_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Version"] == __version__
    # The name of the field depends on the version of setuptools.
    assert "Apache-2.0" in (metadata["License-Expression"], metadata["License"])
    assert metadata["Requires-Python"] == ">=3.11"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["trajbuild", "fidediff"])
def test_console_script_of_the_wheel_shows_its_help(installed, tmp_path, program):
    assert FIRST_LINE.match(run(installed / program, "--help", cwd=tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("program", ["trajbuild", "fidediff"])
def test_console_script_of_the_wheel_tells_the_version(installed, tmp_path, program):
    assert __version__ in run(installed / program, "--version", cwd=tmp_path)


@pytest.mark.slow
def test_wheel_does_the_whole_job_from_its_own_files(installed, tmp_path):
    run(installed / "trajbuild", "demo", "--jobs", "1", cwd=tmp_path)
    assert (tmp_path / "demo/report.html").stat().st_size > 10_000
    where = "import trajectory_builder; print(trajectory_builder.__file__)"
    assert str(installed.parent) in run(installed / "python", "-c", where, cwd=tmp_path)


def test_citation_gives_the_version_of_the_package():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", text, re.M)[1] == __version__


def test_citation_has_what_the_format_asks_for():
    """The required keys of Citation File Format 1.2.0, of the software and of each reference."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)
    people = [a for one in (citation, *citation["references"]) for a in one["authors"]]
    assert all(set(person) in ({"name"}, {"given-names", "family-names"}) for person in people)


def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_each_lowest_version_of_setup_is_the_one_that_is_tried():
    asked = setup()
    # The extra dev holds what reads the code, not what runs it.
    extras = [text for name, text in asked["options.extras_require"].items() if name != "dev"]
    lines = [asked["options"]["install_requires"], *extras]
    asked = re.findall(r"^([\w-]+)(?:\[\w+\])? >= ([\d.]+)", "\n".join(lines), re.M)
    tried = re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / ".ci/lowest.txt").read_text(), re.M)
    tried = {name.lower(): re.sub(r"(\.0)+$", "", version) for name, version in tried}
    asked = {name.lower(): re.sub(r"(\.0)+$", "", version) for name, version in asked}
    assert len(asked) > 40
    assert {name: tried.get(name) for name in asked} == asked


def test_every_line_of_setup_asks_for_a_lowest_version():
    asked = setup()
    lines = [asked["options"]["install_requires"], *asked["options.extras_require"].values()]
    lines = [line for line in "\n".join(lines).split("\n") if line]
    assert [x for x in lines if " >= " not in x and not x.startswith("fidediff[")] == []


def test_pythons_that_are_told_are_those_of_the_workflow():
    told = re.findall(r":: (3\.\d+)$", setup()["metadata"]["classifiers"], re.M)
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["builder"]["strategy"]["matrix"]["python"] == told
    for job in ("lint", "model", "check", "lowest"):
        assert jobs[job]["steps"][1]["with"]["python-version"] == told[0]


def test_build_asks_for_the_setuptools_of_the_tests():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (asked,) = pyproject["build-system"]["requires"]
    assert asked.replace(">=", " >= ") in setup()["options.extras_require"]["test-builder"].split(
        "\n"
    )


def test_setup_takes_the_version_from_the_one_place():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: trajectory_builder.version.__version__"
