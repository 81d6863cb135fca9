import re
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import cli, folder_of, loaded, scene, tensor

from fidediff_model.errors import DeviceError, ModelError
from fidediff_model.model.engine import (
    ReadyModel,
    Settings,
    choose_device,
    make_ready,
)
from fidediff_model.model.fidediff import FideDiff, open_model
from fidediff_model.model.tiles import (
    TilePlan,
    left_in,
    plan_for,
    smaller,
    spans,
    tile_within,
    unet_bytes,
)
from fidediff_model.scores import metrics
from fidediff_model.weights import shipped

CPU = torch.device("cpu")


def ready(**settings) -> ReadyModel:
    return ReadyModel(loaded(), Settings(device="cpu", **settings), CPU)


def test_an_untiled_restoration_has_the_bits_of_the_model():
    blur = tensor(scene(50, 83))
    with torch.inference_mode():
        expected = loaded()(blur, keep_kernels=False)
        restored = loaded()(blur, keep_kernels=False, plan=TilePlan())
    assert torch.equal(restored.image, expected.image)
    assert torch.equal(restored.t_hat, expected.t_hat)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (33, 65), (128, 64)])
def test_any_size_in_is_the_same_size_out(size):
    assert ready(timestep=200.0).run(tensor(scene(*size))).images.shape == (1, 3, *size)


@pytest.mark.slow
def test_a_picture_of_20000_by_20_pixels_is_restored():
    settings = Settings(
        device="cpu", latent_stride=8, control="none", timestep=200.0, tile=512, overlap=64
    )
    thin = make_ready(FideDiff.load(folder_of()), settings)
    assert thin.run(tensor(scene(20, 20_000))).images.shape == (1, 3, 20, 20_000)


def test_tiles_share_the_timestep_of_the_whole_image():
    blur = tensor(scene(96, 288))
    whole = ready().run(blur).t_hat
    assert torch.equal(ready(tile=128, overlap=32).run(blur).t_hat, whole)


def seam_ratio(overlap: int, width: int = 384) -> float:
    """Steps across the columns where tiles begin or end, relative to steps everywhere.

    A flat image restored by a model whose output depends on the position: what steps there are
    come from the model's grid and, at a seam, from the change of tiles.
    """
    blur = tensor(scene(96, width))
    with torch.inference_mode():
        tiled = loaded()(blur, 200.0, plan=TilePlan(128, overlap)).image
        whole = loaded()(blur, 200.0).image
    # What tiling changed; its steps are the seams.
    steps = (tiled - whole).diff(dim=3).abs().mean(dim=(0, 1, 2))  # (W - 1,)
    edges = {edge * 4 - 1 for span in spans(width // 4, 32, overlap // 4) for edge in span}
    edges -= {-1, width - 1}
    at_seams = steps[sorted(edges)].mean()
    texture = whole.diff(dim=3).abs().mean()
    return float(at_seams / texture)


def test_overlapping_tiles_leave_no_step_beyond_the_texture():
    hard, soft = seam_ratio(0), seam_ratio(64)
    assert soft < 0.5 * hard
    assert soft < 1


def test_tiles_cover_every_cell_on_the_grid_of_eight():
    for length in range(8, 400, 8):
        for side in (32, 64, 192):
            for overlap in (0, 8, 16):
                found = spans(length, side, overlap)
                covered = {cell for a, b in found for cell in range(a, b)}
                assert covered == set(range(length))
                assert all(a % 8 == 0 and b - a <= side for a, b in found)


def test_neighbouring_tiles_overlap_as_asked():
    found = spans(400, 64, 16)
    assert all(b - c >= 16 for (_, b), (c, _) in pairwise(found))


def test_kernels_in_bands_equal_kernels_of_the_whole():
    estimator = loaded().kernel_estimator
    padded = tensor(scene(512, 64))
    assert estimator.reach < 128  # else one band would be everything
    with torch.inference_mode():
        whole = estimator.pooled(padded, 4)
        banded = estimator.pooled(padded, 4, band_pixels=64 * 64)
    assert torch.allclose(banded, whole, atol=1e-6)


def test_a_large_image_is_tiled_by_itself():
    assert plan_for(loaded(), (4000, 6000), tile=None, overlap=128).tile is not None
    assert plan_for(loaded(), (720, 1280), tile=None, overlap=128).tile is None


def test_an_image_beyond_the_memory_is_tiled_without_being_asked():
    assert plan_for(loaded(), (256, 256), tile=None, overlap=128, batch=1).tile is None
    beyond = plan_for(loaded(), (256, 256), tile=None, overlap=128, batch=100_000_000)
    assert beyond.tile == 192
    assert beyond.overlap == 96


def test_tiles_are_as_large_as_the_budget_allows():
    model, stride = loaded(), loaded().codec.latent_stride
    assert tile_within(model, 64 * 64, unet_bytes(model, 64 * 64), 1) == 0
    for side in (192, 96):
        assert tile_within(model, 200 * 200, unet_bytes(model, side**2), 1) == side * stride
        assert tile_within(model, 200 * 200, unet_bytes(model, side**2 * 2), 2) == side * stride


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc")
def test_the_unet_stays_within_what_is_planned_for_it():
    def kilobytes(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    model = FideDiff.load(shipped.model_folder())
    channels = model.codec.vae.config.latent_channels
    with torch.inference_mode():
        model.step(torch.zeros(1, channels, 16, 16), torch.tensor([100.0]))  # what comes once
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is used now
        before = kilobytes("VmRSS")
        model.step(torch.zeros(1, channels, 96, 128), torch.tensor([100.0]))
    assert (kilobytes("VmHWM") - before) * 1024 < unet_bytes(model, 96 * 128)


def test_a_control_group_counts_as_free_what_it_may_still_take(tmp_path):
    assert left_in(tmp_path) is None
    for name, text in (("memory.max", "1000"), ("memory.current", "700"),
                       ("memory.stat", "anon 500\ninactive_file 100")):  # fmt: skip
        (tmp_path / name).write_text(text + "\n")
    assert left_in(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert left_in(tmp_path) is None


def test_a_vae_too_large_for_the_memory_runs_in_strips():
    assert plan_for(loaded(), (200_000, 200_000), tile=None, overlap=128).strip_rows is not None


def test_plans_shrink_until_there_is_no_smaller_one():
    plan, seen = TilePlan(), []
    while plan is not None:
        seen.append(plan)
        plan = smaller(plan, (2000, 3000))
    assert seen[1].tile is None  # exact strips come before tiles
    assert seen[1].strip_rows is not None
    assert seen[-1].tile == 256
    assert len(seen) < 10


def test_strength_zero_gives_the_input():
    blur = tensor(scene(40, 40))
    assert torch.equal(ready(strength=0.0, timestep=100.0).run(blur).images, blur)


def test_half_strength_lies_half_way():
    blur = tensor(scene(40, 40))
    half = ready(strength=0.5, timestep=100.0).run(blur).images
    full = ready(timestep=100.0).run(blur).images
    assert torch.allclose(half, (blur + full) / 2, atol=1e-6)


def test_a_batch_gives_what_single_images_give():
    blurs = torch.cat([tensor(scene(40, 56, seed)) for seed in range(3)])
    together = ready().run(blurs)
    for index in range(3):
        alone = ready().run(blurs[index : index + 1])
        assert torch.allclose(together.images[index], alone.images[0], atol=1e-4)


def test_threads_sharing_a_model_get_the_same_bits():
    blurs = [tensor(scene(40, 56, seed)) for seed in range(4)]
    alone = [ready().run(blur).images for blur in blurs]
    found = {}

    def run(index: int) -> None:
        found[index] = ready().run(blurs[index]).images

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], alone[index]) for index in range(4))


@pytest.fixture(scope="module")
def prepared() -> ReadyModel:
    """Fused and in bfloat16."""
    return open_model(folder_of(), Settings(device="cpu", dtype="bf16"))


def test_bfloat16_costs_less_than_two_hundredths_of_a_decibel(prepared):
    losses = []
    for seed in range(3):
        sharp = scene(64, 96, seed)
        blur = tensor(sharp)
        full = metrics.psnr(metrics.as_uint8(ready().run(blur).images[0]), sharp)
        half = metrics.psnr(metrics.as_uint8(prepared.run(blur).images[0]), sharp)
        losses.append(full - half)
    assert abs(sum(losses) / len(losses)) < 0.02


def test_the_timestep_regressor_stays_exact_enough_in_bfloat16(prepared):
    blur = tensor(scene(64, 96))
    assert abs(float(prepared.run(blur).t_hat) - float(ready().run(blur).t_hat)) < 1


def test_fusing_changes_no_visible_bit():
    blur = tensor(scene(48, 64))
    fused = open_model(folder_of(), Settings(device="cpu"))
    difference = (fused.run(blur).images - ready().run(blur).images).abs().max()
    assert float(difference) < 1 / 255


def test_another_latent_stride_still_gives_the_same_size():
    model = FideDiff.load(folder_of())
    changed = make_ready(model, Settings(device="cpu", latent_stride=8))
    assert changed.model.codec.latent_stride == 8
    assert changed.run(tensor(scene(50, 70))).images.shape == (1, 3, 50, 70)


def test_control_none_restores_as_the_base_alone():
    bare = FideDiff.load(folder_of())
    bare.control = None
    blur = tensor(scene(40, 40))
    with torch.inference_mode():
        expected = bare(blur, 120.0).image
    changed = make_ready(
        FideDiff.load(folder_of()), Settings(device="cpu", control="none", timestep=120.0)
    )
    assert torch.allclose(changed.run(blur).images, expected, atol=1e-3)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(scene(20, 30)),
        Image.fromarray(scene(20, 30)).convert("RGBA"),
        Image.fromarray(scene(20, 30)).convert("L"),
        Image.fromarray(scene(20, 30)).convert("LA"),
    ],
    ids=lambda image: image.mode,
)
def test_a_pil_image_comes_back_as_a_pil_image_of_its_mode(image):
    restored = loaded().restore(image, 200.0)
    assert (restored.mode, restored.size) == (image.mode, image.size)


@pytest.mark.parametrize(
    "image",
    [
        scene(20, 30),
        scene(20, 30).astype(np.uint16) * 257,
        scene(20, 30) / 255,
        (scene(20, 30) / 255).astype(np.float32),
        scene(20, 30)[..., 0],
        np.stack([scene(20, 30), scene(20, 30, 1)]),
    ],
    ids=lambda image: f"{image.dtype}-{image.ndim}",
)
def test_an_array_comes_back_as_an_array_of_its_kind(image):
    restored = loaded().restore(image, 200.0)
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
    assert restored.max() <= (1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max)


@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 3, 20, 30)])
def test_a_tensor_comes_back_as_a_tensor_of_its_shape(shape):
    image = torch.zeros(shape, dtype=torch.float64)
    restored = loaded().restore(image, 200.0)
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)


def test_all_kinds_of_one_image_give_the_same_pixels():
    image = scene(20, 30)
    by_array = loaded().restore(image)
    assert np.array_equal(by_array, np.asarray(loaded().restore(Image.fromarray(image))))
    by_tensor = metrics.as_uint8(loaded().restore(tensor(image), value_range=(-1, 1))[0])
    assert np.abs(by_array.astype(int) - by_tensor).max() <= 1


def test_alpha_goes_through_untouched():
    image = np.dstack([scene(20, 30), scene(20, 30, 5)[..., 0]])
    assert np.array_equal(loaded().restore(image, 200.0)[..., 3], image[..., 3])


@pytest.mark.parametrize(
    "image", ["a path", np.zeros((4, 4, 7)), np.zeros((0, 4, 3)), torch.zeros(4, 4), 7, None]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ModelError):
        loaded().restore(image)


@pytest.mark.parametrize(
    "image",
    [
        scene(20, 30).astype(np.float32),  # 0 ... 255
        tensor(scene(20, 30)),  # -1 ... 1
        np.where(np.arange(1800).reshape(20, 30, 3) == 7, np.nan, 0.5),
        torch.full((3, 20, 30), torch.inf),
    ],
    ids=["bytes as floats", "network range", "NaN", "infinity"],
)
def test_values_out_of_range_are_refused(image):
    with pytest.raises(ModelError, match="values") as raised:
        loaded().restore(image)
    assert raised.value.cure


def test_both_ranges_give_the_same_image():
    unit = torch.from_numpy(scene(20, 30)).permute(2, 0, 1) / 255
    restored = loaded().restore(unit, 200.0)
    symmetric = loaded().restore(unit * 2 - 1, timestep=200.0, value_range=(-1, 1))
    torch.testing.assert_close(symmetric, restored * 2 - 1, atol=1e-5, rtol=0)


def test_a_path_gives_the_image_of_the_file(tmp_path):
    alpha = np.dstack([scene(20, 30), scene(20, 30, 5)[..., 0]])
    Image.fromarray(alpha).save(tmp_path / "a.png")
    restored = loaded().restore(tmp_path / "a.png", 200.0)
    assert np.array_equal(np.asarray(restored), loaded().restore(alpha, 200.0))


def test_a_list_gives_a_list_each_of_its_kind():
    images = [Image.fromarray(scene(20, 30)), scene(24, 24)]
    restored = loaded().restore(images, timestep=200.0)
    assert restored[0].size == (30, 20)
    assert restored[1].shape == (24, 24, 3)


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "mps:7"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(DeviceError) as raised:
        choose_device(name)
    assert raised.value.cure


@pytest.mark.parametrize("t", [-1.0, 1000.0, float("nan")])
def test_a_timestep_out_of_range_is_refused(t):
    with pytest.raises(ModelError, match="out of range"):
        Settings(timestep=t)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (128, 100), (256, 200)])
def test_tiles_that_cannot_work_are_refused(tile, overlap):
    with pytest.raises(ModelError):
        Settings(tile=tile, overlap=overlap)


def test_a_model_without_regressor_asks_for_the_timestep():
    bare = ReadyModel(FideDiff.load(folder_of(())), Settings(), CPU)
    with pytest.raises(ModelError) as raised:
        bare.run(tensor(scene(20, 20)))
    assert "--timestep" in raised.value.cure


def test_settings_can_be_varied_without_being_changed():
    settings = Settings(timestep=3.0)
    assert replace(settings, strength=0.5).timestep == settings.timestep == 3.0


OUT_OF_MEMORY = """
import os, resource, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from small_model import scene, tensor
from fidediff_model.model.fidediff import FideDiff, open_model
from fidediff_model.model.engine import DeviceError, ReadyModel, Settings
model = FideDiff.load(sys.argv[1])
settings = Settings(device="cpu", timestep=200.0)
ready = ReadyModel(model, settings, torch.device("cpu"))
model.control = None
ready.run(tensor(scene(32, 32)))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
ENOUGH, TOO_LITTLE, LESS_DID = range(3)

def attempt(extra):
    limit = used + (extra << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        answer = ready.run(tensor(scene(320, 320)))
    except DeviceError:
        return TOO_LITTLE
    if answer.notes:
        print(answer.notes, tuple(answer.images.shape), flush=True)
    return LESS_DID if answer.notes else ENOUGH

# How much the whole takes depends on the allocator, so the limit is searched for; each try is a
# process of its own, since a try that failed leaves the allocator in another state.
def tried(extra):
    child = os.fork()
    if not child:
        os._exit(attempt(extra))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

low, high, came = 40, 400, None
while came != LESS_DID and high - low > 1:
    extra = (low + high) // 2
    came = tried(extra)
    low, high = (extra, high) if came == TOO_LITTLE else (low, extra)
# The same limit does not always end the same way, so halving may step past the few that do.
for extra in range(high + 20, low - 20, -1):
    if came == LESS_DID:
        break
    came = tried(extra)
sys.exit(came != LESS_DID)
"""


def test_out_of_memory_falls_back_to_less_and_says_so(tmp_path):
    script = tmp_path / "limited.py"
    script.write_text(OUT_OF_MEMORY)
    ended = subprocess.run(
        [sys.executable, script, folder_of(), Path(__file__).parents[1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "strips" in ended.stdout
    assert "(1, 3, 320, 320)" in ended.stdout
    assert "out of memory" in ended.stderr


def test_the_help_of_restore_is_instant_and_without_torch():
    code = "import sys; from fidediff_model.cli import main\ntry: main(['restore', '--help'])\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_cuda_attention_never_falls_back_to_the_math_kernel():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    prepared = open_model(folder_of(), Settings(device="cuda", dtype="bf16"))
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(kernels):
        assert prepared.run(tensor(scene(128, 128))).images.shape == (1, 3, 128, 128)


def test_restore_tells_a_missing_device_before_loading(tmp_path, capsys):
    Image.fromarray(scene(16, 16)).save(tmp_path / "a.png")
    code = cli(
        "restore",
        tmp_path / "a.png",
        "--model",
        folder_of(),
        "--out",
        tmp_path / "o",
        "--device",
        "cuda:99",
    )
    error = capsys.readouterr().err
    assert code == 2
    assert "cuda:99" in error
    assert "cure:" in error
    assert not (tmp_path / "o").exists()
