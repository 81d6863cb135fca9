"""Does the model `small` deblur photographs that it never saw? Writes results/train_small.md.

    python benchmarks/small_proof.py [--model DIR] [--per-photo 8] [--processes 2] [--out DIR]

scikit-image's photographs, reduced to 288 pixels, under camera paths drawn here alone. Nothing was
trained on photographs, and nothing was chosen by these scores.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import small_data
import torch
from numpy.typing import NDArray
from tiny_truth import deconvolve
from torch import Tensor

from fidediff_model.model.fidediff import FideDiff
from fidediff_model.model.reblur import reblur
from fidediff_model.scores.metrics import as_uint8, psnr, ssim, trajectory_gap
from fidediff_model.weights import shipped
from trajectory_builder.pixels import hand_motion

RESULTS = Path(__file__).parent / "results"
PHOTOS = (
    "astronaut", "coffee", "cat", "rocket", "hubble_deep_field", "immunohistochemistry", "retina",
    "stereo_motorcycle",
)  # fmt: skip
N_FRAMES = (3, 5, 7, 9, 11, 13, 15)
ASKED = (7, 11, 13)
"""The n of GoPro's blurs, over which gains are averaged."""
SIDE, WINDOW = 288, 128
CAMERA = small_data.CAMERA
SEED = 20_251
READ_AT_MOST, DECONVOLVED_AT_MOST, DECONVOLVED_N = 1, 1, 11
"""Paths per photograph on which M and T, and deconvolution, are scored: they take long on a CPU."""

Scored = tuple[dict[str, list[dict[str, Any]]], list[str]]
"""Row -> scores of each trajectory, and the photograph of each."""


@dataclass(frozen=True)
class Case:
    """One camera path over one window of a photograph; images in [-1, 1]."""

    photo: str
    blurs: Tensor
    sharp: Tensor
    poses: NDArray[np.float64]
    number: int

    @property
    def t(self) -> Tensor:
        """The true timesteps of the blurs."""
        return torch.tensor([20.0 * (n - 1) for n in N_FRAMES])


def cases(per_photo: int, *, hand: bool = False) -> Iterator[Case]:
    """All trajectories, the same every time; `hand` takes the paths of `trajbuild generate`."""
    random, margin = np.random.default_rng(SEED), CAMERA.margin
    side = WINDOW + 2 * margin
    for name in PHOTOS:
        image = getattr(skimage.data, name)()
        image = (image[0] if isinstance(image, tuple) else image)[..., :3]
        factor = SIDE / min(image.shape[:2])
        photo = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        for number in range(per_photo):
            y, x = (int(random.integers(length - side + 1)) for length in photo.shape[:2])
            window = np.ascontiguousarray(photo[y : y + side, x : x + side])
            draw = small_data.hand_path if hand else small_data.steady_path
            poses = draw(WINDOW, random)
            blurs = hand_motion.blurs(window, poses, N_FRAMES, margin)
            sharp = window[margin:-margin, margin:-margin]
            stacked = small_data.to_tensor([blurs[n] for n in N_FRAMES])
            yield Case(name, stacked, small_data.to_tensor([sharp]), poses, number)


@torch.no_grad()
def score(model: FideDiff, case: Case) -> dict[str, dict[str, Any]]:
    """Row of the table -> PSNR by n, SSIM and gap, or the errors of M and T."""
    codec = model.codec.decode(model.codec.encode(case.sharp), (WINDOW, WINDOW))
    images = {
        "blurry input": case.blurs,
        "codec alone, of the sharp image": codec.expand_as(case.blurs),
        "base, t given": model(case.blurs, case.t).image,
        "base, t = 200 for all": model(case.blurs, 200.0).image,
    }
    found: dict[str, dict[str, Any]] = {}
    if model.kernel_estimator is not None and case.number < READ_AT_MOST:
        kernels = model.kernel_estimator(case.blurs)
        found["M"] = _reblur_scores(case, kernels)
        if case.number < DECONVOLVED_AT_MOST:
            found |= _deconvolutions(case, kernels)
        if model.timestep_regressor is not None:
            t_hat = model.timestep_regressor(kernels)
            images["base, t of T"] = model(case.blurs, t_hat).image
            found["T"] = {
                "t_error": float((t_hat - case.t).abs().mean()),
                "constant": float((case.t.median() - case.t).abs().mean()),
            }
    return {row: _image_scores(x, case.sharp) for row, x in images.items()} | found


def _image_scores(images: Tensor, sharp: Tensor) -> dict[str, Any]:
    images = images.clamp(-1, 1)
    shown, truth = [as_uint8(image) for image in images], as_uint8(sharp[0])
    asked = [shown[N_FRAMES.index(n)] for n in ASKED]
    return {
        "psnr": [psnr(x, truth) for x in shown],
        "ssim": float(np.mean([ssim(x, truth) for x in asked])),
        "gap": trajectory_gap(images),
    }


def _reblur_scores(case: Case, kernels: Tensor) -> dict[str, Any]:
    again = reblur(case.sharp.expand_as(case.blurs), kernels)
    rim = np.s_[..., 9:-9, 9:-9]  # beyond the picture no kernel can look
    return {
        "reblur": float((again - case.blurs)[rim].abs().mean()),
        "identity": float((case.sharp - case.blurs)[rim].abs().mean()),
    }


def _deconvolutions(case: Case, own: Tensor) -> dict[str, dict[str, Any]]:
    y, x = np.mgrid[:WINDOW, :WINDOW]
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    at = N_FRAMES.index(DECONVOLVED_N)
    true = hand_motion.kernels_at(case.poses, DECONVOLVED_N, points, WINDOW, WINDOW)
    exact = torch.from_numpy(true.astype(np.float32).reshape(WINDOW, WINDOW, -1)).permute(2, 0, 1)
    truth = as_uint8(case.sharp[0])
    return {
        f"deconvolution, {name} kernels": {
            "one": psnr(as_uint8(deconvolve(case.blurs[at, None].clone(), k[None])[0]), truth)
        }
        for name, k in (("true", exact), ("M's", own[at]))
    }


def table(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A line for each way to restore."""
    at, blurry = [N_FRAMES.index(n) for n in ASKED], _psnr(rows["blurry input"])
    lines = ["| | " + " | ".join(f"n = {n}" for n in N_FRAMES) + " | gain, n = 7, 11, 13 | SSIM |"
             " trajectory gap |", "|" + "---|" * (len(N_FRAMES) + 4)]  # fmt: skip
    for row, scores in rows.items():
        if "psnr" not in scores[0]:
            continue
        gains = (_psnr(scores) - blurry[_cases(scores)])[:, at].mean(axis=1)
        cells = " | ".join(f"{v:.2f}" for v in _psnr(scores).mean(axis=0))
        error = gains.std(ddof=1) / math.sqrt(len(gains))
        means = [np.mean([s[k] for s in scores]) for k in ("ssim", "gap")]
        count = f", {len(scores)} of them" if len(scores) < len(blurry) else ""
        lines.append(f"| {row}{count} | {cells} | {gains.mean():+.2f} ± {error:.2f} |"
                     f" {means[0]:.3f} | {means[1]:.4f} |")  # fmt: skip
    return [*lines, ""]


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The scores that the model's card states."""
    at = [N_FRAMES.index(n) for n in ASKED]
    blurry, base = (_psnr(rows[row])[:, at] for row in ("blurry input", "base, t given"))
    return {
        "PSNR of blurred photographs, n = 7, 11, 13": round(float(blurry.mean()), 2),
        "PSNR of their restorations, t given": round(float(base.mean()), 2),
    }


def facts(rows: dict[str, list[dict[str, Any]]], photos: list[str]) -> list[str]:
    """Deconvolution, M, T, and the gain on each photograph."""
    lines = []
    at, blurry = [N_FRAMES.index(n) for n in ASKED], _psnr(rows["blurry input"])
    for row in (name for name in rows if name.startswith("deconvolution")):
        scores, column = rows[row], N_FRAMES.index(DECONVOLVED_N)
        gain = np.mean([s["one"] for s in scores]) - blurry[_cases(scores), column].mean()
        base = _psnr(rows["base, t given"])[_cases(scores), column]
        lines.append(f"- {row} (Richardson-Lucy, n = {DECONVOLVED_N}, {len(scores)} trajectories):"
                     f" {gain:+.2f} dB; the base on the same blurs"
                     f" {(base - blurry[_cases(scores), column]).mean():+.2f} dB.")  # fmt: skip
    if "M" in rows:
        own, same = (np.mean([s[k] for s in rows["M"]]) for k in ("reblur", "identity"))
        lines.append(f"- M: reblur error {own / same:.2f} of identity's.")
    if "T" in rows:
        own, same = (np.mean([s[k] for s in rows["T"]]) for k in ("t_error", "constant"))
        lines.append(f"- T: |t_hat - t| {own:.0f}; the best constant guess errs by {same:.0f}.")
    gains = (_psnr(rows["base, t given"]) - blurry)[:, at].mean(axis=1)
    names = np.array(photos)
    each = [f"{name} {gains[names == name].mean():+.2f}" for name in dict.fromkeys(photos)]
    return [*lines, f"- Gain of the base by photograph, dB: {', '.join(each)}.", ""]


def _cases(scores: list[dict[str, Any]]) -> list[int]:
    return [s["case"] for s in scores]


def _psnr(scores: list[dict[str, Any]]) -> NDArray[np.float64]:
    """(trajectories, n)"""
    return np.array([s["psnr"] for s in scores])


def main() -> None:
    """Score the model and write the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--model", type=Path, help="default: the shipped one")
    options.add_argument("--per-photo", type=int, default=8, help="trajectories per photograph")
    options.add_argument("--processes", type=int, default=1, help="of one thread each")
    options.add_argument("--about", type=Path, help="text that is put above the table")
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args()
    model = given.model or shipped.model_folder()
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, spawned, _open, (model,)) as pool:
        steady = score_all(pool, given.per_photo, hand=False)
        by_hand = score_all(pool, max(1, given.per_photo // 4), hand=True)
    text, stored = document(steady, by_hand, given.about.read_text() if given.about else "")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "train_small.md").write_text(text)
    (given.out / "train_small.json").write_text(json.dumps(stored) + "\n")


def document(steady: Scored, by_hand: Scored, about: str) -> tuple[str, dict[str, Any]]:
    """The page, and the same as data."""
    (rows, photos), (hand_rows, hand_photos) = steady, by_hand
    lines = [
        "# Does the model `small` deblur photographs that it never saw?",
        "",
        about.strip(),
        "",
        f"`benchmarks/small_proof.py`: {len(photos)} camera paths over {len(PHOTOS)} photographs of"
        f" scikit-image, {WINDOW} x {WINDOW} pixels each, 0.4 to 1.2 pixels a frame. PSNR in dB on"
        " 8-bit RGB, means over trajectories; SSIM over n = 7, 11, 13; standard errors over"
        " trajectories.",
        "",
        *table(rows),
        *facts(rows, photos),
        "## Curled paths",
        "",
        f"The same under the camera paths of `trajbuild generate --stills`, which turn more within"
        f" 15 frames; {len(hand_photos)} trajectories.",
        "",
        *table(hand_rows),
        *facts(hand_rows, hand_photos),
    ]
    stored = {"scores": summary(rows), "photos": photos, "rows": rows,
              "hand_photos": hand_photos, "hand_rows": hand_rows}  # fmt: skip
    return "\n".join(lines), stored


_model: FideDiff


def _open(folder: Path) -> None:
    """Load the model of this process."""
    global _model
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _model = FideDiff.load(folder).eval()
    _model.control = None


def _score(case: Case) -> dict[str, dict[str, Any]]:
    return score(_model, case)


def score_all(pool: ProcessPoolExecutor, per_photo: int, *, hand: bool) -> Scored:
    """Row -> scores of each trajectory, and the photograph of each."""
    rows: dict[str, list[dict[str, Any]]] = {}
    chosen = list(cases(per_photo, hand=hand))
    for number, scores in enumerate(pool.map(_score, chosen)):
        for row, of_row in scores.items():
            rows.setdefault(row, []).append(of_row | {"case": number})
        print(f"{number + 1} of {len(chosen)}: {chosen[number].photo}", flush=True)
    return rows, [case.photo for case in chosen]


if __name__ == "__main__":
    main()
