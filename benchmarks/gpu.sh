#!/usr/bin/env bash
# Measures everything of the model half that wants a GPU, in one command:
#
#     benchmarks/gpu.sh              on a machine with a CUDA device
#     benchmarks/gpu.sh --dry [DIR]  the same steps on the CPU, tiny and small: proves the script
#
# Writes gpu-DEVICE-sd21, -sd21-fp32, -tiny and -reblur and memory-DEVICE, each as .json and .md, into
# benchmarks/results (or DIR). Random base weights: nothing is downloaded.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
fidediff=("$python" -m fidediff_model.cli)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1

if [ "${1:-}" = --dry ]; then
    out=${2:-$(mktemp -d)}
    mkdir -p "$out"
    common=(--device cpu --size 64x48 --repeats 1 --warm-up 0)
    "${fidediff[@]}" benchmark --preset tiny --random-base "${common[@]}" --dtype fp32 \
        --dtype bf16 --latent-stride 8 --out "$out/gpu-dry-tiny"
    "$python" "$root/benchmarks/reblur.py" --side 24 --repeat 1 --threads 1 --out "$out" \
        --name gpu-dry-reblur
    echo "dry run done: $out" >&2
    exit
fi

out=${1:-$root/benchmarks/results}
mkdir -p "$out"
device=$("$python" - <<'PY'
import re, sys
import torch
if not torch.cuda.is_available():
    sys.exit("error: no CUDA device is there\n  cure:  run it on a GPU machine, or with --dry")
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
PY
)
echo "== $device: speed, sd21" >&2
# Uncompiled rows first, then the compiled ones, whose code takes a minute or two to make.
"${fidediff[@]}" benchmark --preset sd21 --random-base --device cuda --compile \
    --dtype bf16 --out "$out/gpu-$device-sd21"
"${fidediff[@]}" benchmark --preset sd21 --random-base --device cuda --dtype fp32 \
    --repeats 5 --out "$out/gpu-$device-sd21-fp32"
echo "== $device: speed, tiny" >&2
"${fidediff[@]}" benchmark --preset tiny --random-base --device cuda \
    --out "$out/gpu-$device-tiny"
echo "== $device: reblur" >&2
"$python" "$root/benchmarks/reblur.py" --side 256 --out "$out" \
    --name "gpu-$device-reblur"
echo "== $device: memory of training steps" >&2
"$python" "$root/benchmarks/memory.py" --device cuda --out "$out"
echo "== $device: tests that need a GPU" >&2
"$python" -m pytest -m gpu "$root/tests/model"
