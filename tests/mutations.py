"""Break one wire of training or evaluation at a time, and demand that the quick tests notice.

    python tests/mutations.py [--only NUMBER,...] [--out TABLE.md]

Each mutation replaces one piece of text in one file of a copy in a temporary folder; a text that is
no longer there stops the script, so the list cannot rot. The tests that can see a mutation run in a
process of their own, up to the first failure; the processes are forked from this one, which has
imported torch already. Prints a table and ends with 1 where a mutation survives. Takes some ten
minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("fidediff_model", "trajectory_builder", "tests")
PRELOADED = ("torch", "diffusers.models.controlnets", "diffusers.models.unets.unet_2d_condition",
             "diffusers.models.autoencoders.autoencoder_kl", "transformers", "peft", "accelerate",
             "pandas", "skimage.metrics", "cv2", "pyarrow.parquet", "joblib")  # fmt: skip
HEAD = """\
Faults put into a copy of the package one at a time, and the first quick test that fails with each:
`python tests/mutations.py`, which every night runs. {} faults, {} not caught.
"""
WIRES, VALIDATION = "training/test_wires.py", "training/test_validation.py"


class Mutation(NamedTuple):
    """One fault: what it does, the text that it replaces, and the tests that should notice."""

    fault: str
    before: str
    after: str
    tests: str
    test_file: str = WIRES


MUTATIONS: dict[str, list[Mutation]] = {
    "training/kernel.py": [
        Mutation("the reblur loss has sharp and blur swapped",
                 "reblur_loss(wrapped(batch.blur), batch.target, batch.blur)",
                 "reblur_loss(wrapped(batch.blur), batch.blur, batch.target)", "stage_kernel"),
        Mutation("M reads the sharp image", "wrapped(batch.blur)", "wrapped(batch.target)",
                 "stage_kernel"),
    ],
    "training/base.py": [
        Mutation("the base gets t + 20", "self.model(blur, t)", "self.model(blur, t + 20)",
                 "stage_base"),
    ],
    "training/image_stage.py": [
        Mutation("lambda2 is ignored", "total + settings.gan_weight * adversarial",
                 "total + adversarial", "stage_base"),
        Mutation("real and fake are swapped in D's step", "real, fake = [", "fake, real = [",
                 "stage_base"),
        Mutation("D's real latents are those of the blur",
                 "self.model.codec.encode(batch.sharp)[batch.trajectory]",
                 "self.model.codec.encode(batch.blur)", "stage_base"),
        Mutation("D compares sharp latents with themselves", "torch.cat([z_0, z0_hat.detach()])",
                 "torch.cat([z_0, z_0])", "stage_base"),
        Mutation("D gets t + 20", "torch.cat([t, t])", "torch.cat([t + 20, t + 20])",
                 "stage_base"),
        Mutation("the generator's loss trains D", "with frozen(discriminator):", "if True:",
                 "discriminator_are"),
        Mutation("gan_loss is ignored on the generator's side",
                 "generator_loss(discriminator(seen, t), settings.gan_loss)",
                 'generator_loss(discriminator(seen, t), "hinge")', "both_sides"),
        Mutation("gan_loss is ignored on D's side",
                 "discriminator_loss(real, fake, settings.gan_loss)",
                 'discriminator_loss(real, fake, "hinge")', "both_sides"),
        Mutation("gan_noise is ignored", 'settings.gan_noise == "none"', "True", "noise"),
        Mutation("D plays one step too late", "state.step >= self.run.settings.gan_start",
                 "state.step > self.run.settings.gan_start", "first_step"),
        Mutation("D trains at the model's rate", "settings.discriminator_rate)",
                 "settings.learning_rate)", "own_rate"),
        Mutation("micro-batches of the model add up without a mean", "total / settings.accumulate",
                 "total", "micro_batches"),
        Mutation("micro-batches of D add up without a mean", "loss / settings.accumulate", "loss",
                 "micro_batches"),
        Mutation("l1_in is ignored", 'and settings.l1_in == "latents"', "and False",
                 "l1_of_latents"),
        Mutation("time_weight is ignored", "settings.time_weight * stepped.time_loss",
                 "stepped.time_loss", "stage_control"),
        Mutation("kernel_weight is ignored", "settings.kernel_weight * reblur", "reblur",
                 "stage_control"),
        Mutation("validation scores the live weights",
                 "with loop.averaged(state):\n                    report = validation.of_images",
                 "if True:\n                    report = validation.of_images",
                 "averaged_weights", VALIDATION),
    ],
    "training/control.py": [
        Mutation("control_timestep is ignored",
                 'estimated=settings.control_timestep == "estimated"', "estimated=False",
                 "stage_control"),
        Mutation("a gradient reaches T through the image", "t_hat.detach() if", "t_hat if",
                 "stage_control"),
        Mutation("M trains although its loss has no weight", "if settings.kernel_weight > 0:",
                 "if True:", "frozen"),
        Mutation("new parts train at the rate of the copied ones",
                 "rate * settings.new_rate_factor", "rate", "own_learning_rate"),
    ],
    "training/setup.py": [
        Mutation("lambda1 is ignored", "perceptual_weight=settings.perceptual_weight",
                 "perceptual_weight=2.0", "stage_base"),
        Mutation("the weight of L1 is ignored", "l1_weight=settings.l1_weight if",
                 "l1_weight=1.0 if", "stage_base"),
        Mutation("the kind of perceptual distance is ignored", "perceptual=settings.perceptual,",
                 'perceptual="ea-lpips",', "perceptual_distance_is"),
        Mutation("new parts ignore the seed", "parts=parts, seed=run.settings.seed",
                 "parts=parts, seed=0", "of_the_seed"),
    ],
    "training/loop.py": [
        Mutation("the model is saved without its averages",
                 "    with averaged(state):\n        state.model.save(folder, card=card)",
                 "    state.model.save(folder, card=card)", "averaged"),
        Mutation("clip is ignored", "state.run.settings.clip)", "1e9)", "clipping"),
        Mutation("the learning rate is that of the step before", "settings, state.step + 1)",
                 "settings, state.step)", "warm_up"),
    ],
    "training/optim.py": [
        Mutation("weight_decay is ignored", "AdamW(dicts, weight_decay=settings.weight_decay)",
                 "AdamW(dicts)", "weight_decay"),
    ],
    "training/datasets.py": [
        Mutation("identity points keep a fixed timestep",
                 'identity=0.0 if settings.timestep_of == "fixed" else settings.identity',
                 "identity=settings.identity", "fixed_timestep"),
        Mutation("the fixed timestep is ignored", "fixed_timestep=settings.fixed_timestep",
                 "fixed_timestep=200.0", "fixed_timestep"),
        Mutation("points_of is ignored", "points_of=settings.points_of", 'points_of="all"',
                 "draws_follow"),
        Mutation("clips that are held out are trained on", "without=clips or ()", "without=()",
                 "tenth_of_its_clips", "training/test_training_settings.py"),
    ],
    "training/validation.py": [
        Mutation("validation scores the blur as the restoration", "psnr(shown[1], shown[2])",
                 "psnr(shown[0], shown[2])", "stage_base_is_scored", VALIDATION),
        Mutation("validation restores with the given t although there is T",
                 "None if estimates else batch.timestep", "batch.timestep",
                 "estimated_t", VALIDATION),
        Mutation("the reblur error of identity kernels is M's", '"reblur_identity": batch.target',
                 '"reblur_identity": reblurred', "kernels_are_scored", VALIDATION),
        Mutation("the worse model is kept", "now > before if self.larger else now < before",
                 "now < before if self.larger else now > before", "better_is", VALIDATION),
    ],
    "evaluate/scoring.py": [
        Mutation("a prescribed t is ignored", "torch.tensor(ts) if ts else None", "None",
                 "prescribed_timestep", "evaluate/test_scan.py"),
        Mutation("rows of other images are taken for these", "if digests != scored[pair.sample_id]",
                 "if False", "under_the_same_name", "evaluate/test_results.py"),
        Mutation("the blur is scored in place of the restoration",
                 "image=metrics.as_uint8(image), t_hat", "t_hat", "saved_image",
                 "evaluate/test_evaluate.py"),
    ],
    "evaluate/__init__.py": [
        Mutation("--align is ignored", "aligned=request.align,", "aligned=False,", "align_option",
                 "evaluate/test_evaluate.py"),
    ],
    "evaluate/tables.py": [
        Mutation("the deviation is that of a population", "squares / (len(finite) - 1)",
                 "squares / len(finite)", "deviation", "evaluate/test_results.py"),
    ],
    "scores/scorer.py": [
        Mutation("LPIPS (Alex) is scored with VGG16", '"lpips-alex"] = LPIPS(net)',
                 '"lpips-alex"] = LPIPS(vgg)', "each_network", "evaluate/test_evaluate.py"),
        Mutation("DISTS is scored as LPIPS", 'DISTS(vgg) if name == "dists" else LPIPS(vgg)',
                 "LPIPS(vgg)", "each_network", "evaluate/test_evaluate.py"),
    ],
}  # fmt: skip


def first_failure(copy: Path, mutation: Mutation) -> str | None:
    """The name of the first test that fails in the copy, or None; runs in a fresh process.

    Raises:
        RuntimeError: the tests did not run.
    """
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    failures: list[str] = []

    class Recorder:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failures.append(report.nodeid.partition("::")[2])

    words = ["-x", "-n", "0", "--tb=line", "-p", "no:cacheprovider"]
    words.append(f"tests/model/{mutation.test_file}")
    with Path("output.txt").open("w") as output, redirect_stdout(output):
        code = pytest.main([*words, "-k", mutation.tests], plugins=[Recorder()])
    package = sys.modules["fidediff_model"].__file__ or ""
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(Path("output.txt").read_text())
    if not Path(package).is_relative_to(copy):
        raise RuntimeError(f"the tests are of {package}, not of the copy")
    return failures[0] if failures else None


def try_one(copy: Path, file: str, mutation: Mutation) -> str | None:
    """Run the tests with the mutation in place; the copy is clean again afterwards.

    A pool for one task: modules that are imported once must not see the next mutation.
    """
    path = copy / "fidediff_model" / file
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise SystemExit(f"{path.name} contains {mutation.before!r} {text.count(mutation.before)}x")
    path.write_text(text.replace(mutation.before, mutation.after))
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            return pool.submit(first_failure, copy, mutation).result()
    finally:
        path.write_text(text)


def main() -> None:
    """Try the mutations and print which are caught, and by which test."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="numbers, such as 1,4")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    every = [(file, mutation) for file, of_file in MUTATIONS.items() for mutation in of_file]
    for name in PRELOADED:
        import_module(name)
    numbers = [int(n) for n in options.only.split(",") if n] or range(1, len(every) + 1)
    lines = ["| | fault | in | caught by |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number in numbers:
            file, mutation = every[number - 1]
            test = try_one(copy, file, mutation)
            survivors += test is None
            caught = "**nothing**" if test is None else f"`{test}`"
            lines.append(f"| {number} | {mutation.fault} | `{file}` | {caught} |")
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join([HEAD.format(len(numbers), survivors), *lines, ""]))
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
