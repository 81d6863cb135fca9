import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import cli

from fidediff_model.evaluate.benchmark import (
    PAPER_SECONDS,
    Benchmark,
    BenchmarkRequest,
    Row,
    to_markdown,
)

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.sh"


@pytest.fixture(scope="module")
def dry(tmp_path_factory) -> Path:
    """The GPU script in its dry form, as a user calls it."""
    out = tmp_path_factory.mktemp("dry")
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", SCRIPT, "--dry", out],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return out


def test_the_gpu_script_runs_dry_on_a_cpu(dry):
    assert {path.name for path in dry.iterdir()} >= {"gpu-dry-tiny.json", "gpu-dry-tiny.md"}


def test_every_variant_is_measured(dry):
    rows = json.loads((dry / "gpu-dry-tiny.json").read_text())["rows"]
    assert [row["label"] for row in rows] == [
        "d = 8, no control, fp32",
        "d = 8, filter, fp32",
        "d = 8, no control, bf16",
        "d = 8, filter, bf16",
    ]


def test_a_variant_has_times_parts_and_memory(dry):
    row = json.loads((dry / "gpu-dry-tiny.json").read_text())["rows"][1]
    assert 0 < row["seconds_p50"] <= row["seconds_p95"]
    assert set(row["parts"]) == {
        "VAE encode", "kernel estimator", "timestep regressor", "kernel control", "UNet",
        "VAE decode",
    }  # fmt: skip
    assert row["peak_bytes"] > 1 << 20


def test_without_control_no_kernels_are_estimated(dry):
    row = json.loads((dry / "gpu-dry-tiny.json").read_text())["rows"][0]
    assert set(row["parts"]) == {"VAE encode", "UNet", "VAE decode"}


def test_the_device_is_named(dry):
    result = json.loads((dry / "gpu-dry-tiny.json").read_text())
    assert (result["device"], result["threads"]) == ("cpu", 1)
    assert "on cpu, 1 threads, torch" in (dry / "gpu-dry-tiny.md").read_text()


def test_the_script_without_a_gpu_says_how_to_run_it_dry(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        ["bash", SCRIPT, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "--dry" in ended.stderr


def test_the_variants_are_all_combinations_with_compiled_last():
    request = BenchmarkRequest(dtypes=("bf16", "fp32"), compile=True, device="cpu")
    variants = request.variants()
    assert len(set(variants)) == 16
    assert [v.compile for v in variants] == [False] * 8 + [True] * 8


def test_the_papers_seconds_are_beside_full_size_only():
    rows = [Row("x", note="does not fit the memory")]
    full, small = (
        to_markdown(Benchmark(BenchmarkRequest(size=size), "d", "t", 1, rows))
        for size in ((720, 1280), (64, 64))
    )
    assert "| FideDiff, d = 4 in full | 1.52 |" in full
    assert "1.52" not in small
    assert "| x |  |  |  | does not fit the memory |" in full


def test_the_papers_seconds_are_as_published():
    assert list(PAPER_SECONDS.values()) == [25.40, 5.29, 1.09, 1.52, 0.25]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "big"],
        ["--size", "0x10"],
        ["--device", "cuda:99"],
        ["--device", "cpu", "--dtype", "fp16"],
        ["--random-base", "--base-model", "x"],
    ],
)
def test_a_benchmark_that_cannot_run_is_refused(arguments, capsys):
    assert cli("benchmark", "--preset", "tiny", *arguments) == 2
    assert capsys.readouterr().err
