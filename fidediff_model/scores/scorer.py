"""All scores of one restoration against its sharp image, the backbones loaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fidediff_model.scores import metrics, no_reference
from fidediff_model.scores.align import align
from fidediff_model.scores.definitions import METRICS
from fidediff_model.scores.metrics import Image
from fidediff_model.scores.perceptual import DISTS, LPIPS
from fidediff_model.weights.alexnet import open_alexnet
from fidediff_model.weights.vgg import open_vgg16
from trajectory_builder.errors import DataError


class Scorer:
    """Scores of one restoration against its sharp image.

    Args:
        names: columns of `definitions.METRICS`.
        vgg16: file of the backbone of LPIPS (VGG) and DISTS, as `open_vgg16` takes it.
        alexnet: file of the backbone of LPIPS (Alex), as `open_alexnet` takes it.
        aligned: bring the restoration onto the sharp image first (`align`).
        device: where LPIPS and DISTS run.

    Raises:
        WeightsError: LPIPS or DISTS is asked for and its backbone is absent, or a score of pyiqa
            and pyiqa or its weights are absent.

    Attributes:
        backbones: where the weights of each backbone in use come from.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        vgg16: str | None = None,
        alexnet: str | None = None,
        aligned: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.names = list(names)
        self.aligned = aligned
        self.device = device or torch.device("cpu")
        self._nets: dict[str, LPIPS | DISTS] = {}
        self.backbones: dict[str, str] = {}
        deep = [name for name in names if name in ("lpips-vgg", "dists")]
        if deep:
            vgg = open_vgg16(vgg16, needed_by=" and ".join(METRICS[n].heading for n in deep))
            self.backbones["VGG16"] = vgg.source
            self._nets = {name: DISTS(vgg) if name == "dists" else LPIPS(vgg) for name in deep}
        if "lpips-alex" in names:
            net = open_alexnet(alexnet, needed_by=METRICS["lpips-alex"].heading)
            self.backbones["AlexNet"] = net.source
            self._nets["lpips-alex"] = LPIPS(net)
        for module in self._nets.values():
            module.to(self.device).eval()
        self._alone: dict[str, Callable[[Image], float]] = {"blur-effect": no_reference.blur_effect}
        self._alone |= {
            name: no_reference.open_learnt(name, self.device)
            for name in no_reference.LEARNT
            if name in self.names
        }

    def __call__(self, restored: Image, sharp: Image) -> dict[str, float]:
        """Scores by name, in the order of `names`.

        Args:
            restored: (H, W, 3) uint8.
            sharp: the same shape.

        Raises:
            DataError: the images differ in size or are too small for a score.
            ImageError: the images cannot be aligned.
        """
        try:
            # Without a reference there is nothing to align to, and no covered part to cut out.
            scores = {n: self._alone[n](restored) for n in self.names if n in self._alone}
            if self.aligned:
                aligned = align(restored, sharp)
                scores |= {"psnr": aligned.psnr(), "ssim": aligned.ssim()}
                restored, sharp = aligned.as_uint8()
            for name in self.names:
                if name not in scores:
                    scores[name] = self._score(name, restored, sharp)
        except ValueError as error:
            raise DataError(
                f"the pair cannot be scored: {error}",
                where=", ".join(self.names),
                cure="leave the pair out, or leave out the metrics that it is too small for",
            ) from error
        return {name: scores[name] for name in self.names}

    def _score(self, name: str, restored: Image, sharp: Image) -> float:
        if name == "psnr":
            return metrics.psnr(restored, sharp)
        if name == "ssim":
            return metrics.ssim(restored, sharp)
        if name == "ssim-matlab":
            return metrics.ssim(restored, sharp, variant="matlab")
        with torch.inference_mode():
            pair = [metrics.to_tensor(i).to(self.device)[None] for i in (restored, sharp)]
            return float(self._nets[name](*pair))
