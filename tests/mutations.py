"""Break one wire of the training stages at a time, and demand that the tests notice.

    python tests/mutations.py [--only NUMBER,...] [--all-tests]

Works on a copy in a temporary folder. Each mutation replaces one piece of text in one file; a text
that is no longer there stops the script, so the list cannot rot. Prints a table and ends with 1
where a mutation survives. Takes some minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = "tests/model/training/test_wires.py"
TRAINING = "fidediff_model/training"


class Mutation(NamedTuple):
    """One fault: what it does, where, and an expression for the tests that should notice."""

    fault: str
    file: str
    before: str
    after: str
    tests: str


MUTATIONS = [
    Mutation(
        "the reblur loss has sharp and blur swapped", "kernel.py",
        "reblur_loss(wrapped(batch.blur), batch.target, batch.blur)",
        "reblur_loss(wrapped(batch.blur), batch.blur, batch.target)", "stage_kernel",
    ),
    Mutation(
        "M reads the sharp image", "kernel.py", "wrapped(batch.blur)", "wrapped(batch.target)",
        "stage_kernel",
    ),
    Mutation(
        "lambda2 is ignored", "image_stage.py", "total + settings.gan_weight * adversarial",
        "total + adversarial", "stage_base",
    ),
    Mutation(
        "lambda1 is ignored", "setup.py", "perceptual_weight=settings.perceptual_weight",
        "perceptual_weight=2.0", "stage_base",
    ),
    Mutation(
        "the weight of L1 is ignored", "setup.py", "l1_weight=settings.l1_weight if",
        "l1_weight=1.0 if", "stage_base",
    ),
    Mutation(
        "real and fake are swapped in D's step", "image_stage.py", "real, fake = [",
        "fake, real = [", "stage_base or discriminator_are",
    ),
    Mutation(
        "D's real latents are those of the blur", "image_stage.py",
        "self.model.codec.encode(batch.sharp)[batch.trajectory]",
        "self.model.codec.encode(batch.blur)", "stage_base",
    ),
    Mutation(
        "z0_hat is not detached in D's step", "image_stage.py", "torch.cat([z_0, z0_hat.detach()])",
        "torch.cat([z_0, z_0])", "stage_base",
    ),
    Mutation(
        "the model is saved without its averages", "loop.py",
        "    with averaged(state):\n        state.model.save(folder, card=card)",
        "    state.model.save(folder, card=card)", "averaged",
    ),
    Mutation(
        "control_timestep is ignored", "control.py",
        'estimated=settings.control_timestep == "estimated"', "estimated=False", "stage_control",
    ),
    Mutation(
        "a gradient reaches T through the image", "control.py", "t_hat.detach() if", "t_hat if",
        "stage_control",
    ),
    Mutation(
        "time_weight is ignored", "image_stage.py", "settings.time_weight * stepped.time_loss",
        "stepped.time_loss", "stage_control",
    ),
    Mutation(
        "kernel_weight is ignored", "image_stage.py", "settings.kernel_weight * reblur", "reblur",
        "stage_control",
    ),
    Mutation(
        "M trains although its loss has no weight", "control.py",
        "if settings.kernel_weight > 0:", "if True:", "frozen",
    ),
    Mutation(
        "the base is told t + 20", "base.py", "self.model(blur, t)", "self.model(blur, t + 20)",
        "stage_base",
    ),
    Mutation(
        "D is told t + 20", "image_stage.py", "torch.cat([t, t])", "torch.cat([t + 20, t + 20])",
        "stage_base",
    ),
    Mutation(
        "D trains at the model's rate", "image_stage.py", "settings.discriminator_rate)",
        "settings.learning_rate)", "own_rate",
    ),
    Mutation(
        "new parts train at the rate of the copied ones", "control.py",
        "rate * settings.new_rate_factor", "rate", "own_learning_rate",
    ),
    Mutation(
        "micro-batches add up without a mean", "image_stage.py", "total / settings.accumulate",
        "total", "micro_batches",
    ),
    Mutation(
        "clip is ignored", "loop.py", "state.run.settings.clip)", "1e9)", "clipping",
    ),
    Mutation(
        "weight_decay is ignored", "optim.py", "AdamW(dicts, weight_decay=settings.weight_decay)",
        "AdamW(dicts)", "weight_decay",
    ),
    Mutation(
        "D plays one step too late", "image_stage.py", "state.step >= self.run.settings.gan_start",
        "state.step > self.run.settings.gan_start", "first_step",
    ),
    Mutation(
        "gan_noise is ignored", "image_stage.py", 'settings.gan_noise == "none"', "True", "noise",
    ),
    Mutation(
        "l1_in is ignored", "image_stage.py", 'and settings.l1_in == "latents"', "and False",
        "l1_of_latents",
    ),
    Mutation(
        "identity points keep a fixed timestep", "datasets.py",
        'identity=0.0 if settings.timestep_of == "fixed" else settings.identity',
        "identity=settings.identity", "fixed_timestep",
    ),
    Mutation(
        "the fixed timestep is ignored", "datasets.py",
        "fixed_timestep=settings.fixed_timestep", "fixed_timestep=200.0", "fixed_timestep",
    ),
]  # fmt: skip


def is_caught(copy: Path, mutation: Mutation, *, all_tests: bool) -> bool:
    """Whether a test fails with the mutation in place; the copy is clean again afterwards."""
    path = copy / TRAINING / mutation.file
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise SystemExit(f"{path.name} contains {mutation.before!r} {text.count(mutation.before)}x")
    path.write_text(text.replace(mutation.before, mutation.after))
    try:
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
        words += [TESTS] if all_tests else [TESTS, "-k", mutation.tests]
        env = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True, check=False)
    finally:
        path.write_text(text)
    if done.returncode not in (0, 1):  # neither passed nor failed: the tests did not run
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> None:
    """Try the mutations and print which are caught."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="numbers, such as 1,4")
    parser.add_argument("--all-tests", action="store_true", help="run all tests of the file")
    options = parser.parse_args()
    numbers = [int(n) for n in options.only.split(",") if n] or range(1, len(MUTATIONS) + 1)
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignored)
        print("| fault | caught |\n|---|---|", flush=True)
        for number in numbers:
            mutation = MUTATIONS[number - 1]
            caught = is_caught(copy, mutation, all_tests=options.all_tests)
            survivors += not caught
            print(f"| {mutation.fault} | {'yes' if caught else '**no**'} |", flush=True)
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
