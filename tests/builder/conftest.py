"""What the tests of the builder share; see gopro_tree.py for how it is made."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
from gopro_tree import Source, trajbuild, write_real_names, write_small

from trajectory_builder.cli import main


@pytest.fixture(scope="session")
def real_names(tmp_path_factory):
    """The published set's 33 sequences as empty files in both trees; only read it."""
    return write_real_names(tmp_path_factory.mktemp("gopro"))


@pytest.fixture(scope="session")
def small_source(tmp_path_factory):
    """A small source with pixels; only read it."""
    return write_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own_source(small_source, tmp_path):
    """A copy of the small source that a test may spoil."""
    root = small_source.pairs.parent
    shutil.copytree(root, tmp_path / "own")
    return type(small_source)(tmp_path / "own/GOPRO_Large", tmp_path / "own/GOPRO_Large_all")


@pytest.fixture(scope="session")
def small_built(small_source, tmp_path_factory):
    """The small source expanded by the command, default recipe, one worker; only read it."""
    out = tmp_path_factory.mktemp("built") / "out"
    done = trajbuild("expand", "--src", small_source.pairs, "--out", out, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def own_built(small_built, tmp_path):
    """A copy of the small build that a test may spoil."""
    return shutil.copytree(small_built, tmp_path / "own_out", symlinks=True)


@pytest.fixture(scope="session")
def sample_source(tmp_path_factory):
    """The embedded sample as `trajbuild sample` writes it; only read it."""
    root = tmp_path_factory.mktemp("sample") / "sample"
    done = trajbuild("sample", "--out", root)
    assert done.returncode == 0, done.stderr
    return Source(root / "GOPRO_Large", root / "GOPRO_Large_all")


@pytest.fixture
def in_process(capsys):
    """A function that runs a command in this process: its returncode, stdout and stderr."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([os.fspath(one) if hasattr(one, "__fspath__") else str(one) for one in args])
        for number, handler in before.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=out, stderr=err)

    return run
