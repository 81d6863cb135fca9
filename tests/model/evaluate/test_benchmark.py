import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import TINY, cli

from fidediff_model.evaluate.paper import PAPER_SECONDS
from fidediff_model.evaluate.speed import (
    PEAK_TFLOPS,
    BenchmarkRequest,
    Variant,
    count_tflop,
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


def test_a_variant_tells_times_parts_memory_and_arithmetic(dry):
    row = json.loads((dry / "gpu-dry-tiny.json").read_text())["rows"][1]
    assert 0 < row["seconds_best"] <= row["seconds_p50"] <= row["seconds_p95"]
    assert set(row["parts"]) == {
        "VAE encode", "kernel estimator", "timestep regressor", "kernel control", "UNet",
        "VAE decode",
    }  # fmt: skip
    assert row["processor_seconds_p50"] > 0
    assert row["peak_bytes"] > 1 << 20
    assert row["tflop_total"] == pytest.approx(sum(row["tflop"].values()))
    assert row["tflops"] == pytest.approx(row["tflop_total"] / row["seconds_p50"])
    assert row["share_of_peak"] is None  # a CPU's peak is not known


def test_the_machine_is_named(dry):
    about = json.loads((dry / "gpu-dry-tiny.json").read_text())["machine"]
    assert about["kind"] == "cpu"
    assert about["processor"]
    assert about["torch"]


def test_the_table_says_that_a_cpu_is_no_gpu(dry):
    assert "says nothing about a GPU" in (dry / "gpu-dry-tiny.md").read_text()


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


def test_arithmetic_without_control_leaves_its_parts_out():
    whole = count_tflop(TINY, Variant(8, True), (64, 64))
    bare = count_tflop(TINY, Variant(8, False), (64, 64))
    assert set(whole) - set(bare) == {"kernel estimator", "kernel control"}
    assert all(whole[name] == bare[name] for name in bare)


def test_the_paper_s_seconds_stand_beside_full_size_only():
    about = {"device": "d", "processor": "p", "threads": 1, "torch": "t", "kind": "cuda"}
    result = {
        "preset": "sd21", "base": "random:0", "repeats": 1, "warm_up": 0, "machine": about,
        "rows": [{"label": "x", "out_of_memory": True}], "size": [720, 1280],
    }  # fmt: skip
    assert "| FideDiff, d = 4 in full | 1.52 |" in to_markdown(result)
    assert "1.52" not in to_markdown(result | {"size": [64, 64]})
    assert "out of memory" in to_markdown(result)


def test_the_paper_s_seconds_are_as_published():
    assert [seconds for _, seconds in PAPER_SECONDS] == [25.40, 5.29, 1.09, 1.52, 0.25]


def test_the_peaks_are_of_dense_bfloat16():
    assert PEAK_TFLOPS["H100"] == 989.0
    assert PEAK_TFLOPS["A100"] == 312.0


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
