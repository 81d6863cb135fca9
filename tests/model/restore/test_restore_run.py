"""One bad file ends that file only, whatever the error."""

import numpy as np
import torch
from PIL import Image
from small_model import folder_of, loaded, scene

from fidediff_model.model.engine import ReadyModel, Settings
from fidediff_model.restore.records import left_to_do, read_records
from fidediff_model.restore.request import Job, RestoreRequest
from fidediff_model.restore.run import RestorePlan, restore_files


class Picky(ReadyModel):
    """A model that fails on white pictures, as one may run out of memory on some."""

    def run(self, blur, t=None):
        if bool((blur.mean(dim=(1, 2, 3)) > 0.99).any()):
            raise RuntimeError("out of something")
        return super().run(blur, t)


def run_on(tmp_path, batch):
    """A white picture between two others; the request, its jobs and the report."""
    pictures = [scene(16, 16), np.full((16, 16, 3), 255, np.uint8), scene(16, 16)]
    jobs = []
    for name, pixels in zip("abc", pictures, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        jobs.append(Job(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png"))
    settings = Settings(device="cpu", strength=0.0, timestep=120.0, control=None)
    ready = Picky(loaded(), settings, torch.device("cpu"))
    request = RestoreRequest(("abc",), tmp_path / "out", folder_of(), batch=batch)
    return request, jobs, restore_files(RestorePlan(request, jobs, 0), ready)


def test_neighbours_in_a_batch_do_not_fail_with_a_picture(tmp_path):
    *_, report = run_on(tmp_path, batch=3)
    assert report.restored == 2
    assert [path.name for path, _ in report.failures] == ["b.png"]


def test_record_names_the_file_and_the_unexpected_error(tmp_path):
    run_on(tmp_path, batch=1)
    failed = read_records(tmp_path / "out")["b.png"]["failed"]
    assert "RuntimeError: out of something" in failed["what"]
    assert failed["where"].endswith("b.png")


def test_file_that_failed_is_left_to_do(tmp_path):
    request, jobs, _ = run_on(tmp_path, batch=1)
    out = tmp_path / "out"
    left = left_to_do(jobs, out, request.recorded, overwrite=False, skip_existing=False)
    assert [job.source.name for job in left] == ["b.png"]
