import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fidediff_model.errors import ModelError
from fidediff_model.model import presets
from fidediff_model.weights import sd21

TINY = presets.preset("tiny").base
WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(folder: Path, **changes: object) -> sd21.BaseWeights:
    return sd21.load_base(folder, replace(TINY, **changes), prompt_start="normal")


def edit(file: Path, **values: object) -> None:
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def refusal(folder: Path | str, **changes: object) -> ModelError:
    with pytest.raises(ModelError) as caught:
        sd21.load_base(folder, replace(TINY, **changes), prompt_start="normal")
    assert all((caught.value.what, caught.value.where, caught.value.cure))
    return caught.value


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    """A small base model on disk, written by diffusers itself."""
    from diffusers import DDPMScheduler

    folder = tmp_path_factory.mktemp("base")
    weights = sd21.random_base(TINY, seed=5)
    weights.unet.save_pretrained(folder / "unet")
    weights.vae.save_pretrained(folder / "vae")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def base(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "base"))


def test_saved_base_comes_back_with_the_same_bits(base):
    want, got = sd21.random_base(TINY, seed=5), load(base)
    for part in ("unet", "vae"):
        loaded = getattr(got, part).state_dict()
        assert all(torch.equal(v, loaded[k]) for k, v in getattr(want, part).state_dict().items())


def test_tiny_has_the_686_tensors_of_stable_diffusion():
    assert len(sd21.random_base(TINY).unet.state_dict()) == 686


def test_random_base_hangs_on_the_seed_alone():
    torch.manual_seed(1)
    first = sd21.random_base(TINY, seed=7)
    torch.manual_seed(2)
    assert first.fingerprint == sd21.load_base("random:7", TINY).fingerprint
    assert first.fingerprint != sd21.random_base(TINY, seed=8).fingerprint


def test_random_base_leaves_the_callers_random_state_alone():
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    sd21.random_base(TINY, seed=9)
    assert torch.equal(torch.rand(1), want)


def test_v_prediction_is_refused_with_the_model_to_use(base):
    edit(base / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    error = refusal(base)
    assert error.what == "the base model predicts v, not epsilon"
    assert "512" in error.cure


def test_scheduler_without_prediction_type_counts_as_epsilon(base):
    edit(base / "scheduler/scheduler_config.json", prediction_type=None)
    assert load(base).unet is not None


def test_zero_snr_schedule_is_refused(base):
    edit(base / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True)
    assert "rescale_betas_zero_snr" in refusal(base).what


def test_other_betas_are_refused(base):
    edit(base / "scheduler/scheduler_config.json", beta_schedule="linear")
    assert "beta_schedule is linear, not scaled_linear" in refusal(base).what


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_missing_part_is_named(base, part):
    shutil.rmtree(base / part)
    assert refusal(base).what == f"the base model lacks {part}"


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_missing_config_is_named(base, part):
    (base / part / "config.json").unlink()
    assert refusal(base).what == f"the base model lacks {part}/config.json"


def test_folder_of_something_else_is_no_model(tmp_path):
    (tmp_path / "photo.txt").write_text("x")
    assert "is not a diffusers model folder" in refusal(tmp_path).what


def test_single_checkpoint_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "is one file" in refusal(tmp_path / "model.safetensors").what


def test_absent_folder_is_not_sought_on_the_hub(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "absent").what
    assert "there is no folder" in refusal("./a/b/c").what


def test_wrong_width_names_both_widths(base):
    error = refusal(base, unet_channels=(16, 32, 64, 64))
    assert "block_out_channels is [8, 16, 32, 32]" in error.what
    assert "[16, 32, 64, 64]" in error.what


def test_wrong_prompt_width_is_refused(base):
    assert "cross_attention_dim" in refusal(base, prompt_width=16).what


def test_inpainting_unet_is_refused_by_its_channels(base):
    edit(base / "unet/config.json", in_channels=9)
    assert "in_channels is 9" in refusal(base).what


def test_pickle_is_refused_and_never_opened(base):
    (base / "unet" / WEIGHTS).rename(base / "unet/diffusion_pytorch_model.bin")
    assert "pickle" in refusal(base).what


def test_part_without_weights_names_the_file(base):
    (base / "vae" / WEIGHTS).unlink()
    error = refusal(base)
    assert error.what == "vae has no weights"
    assert WEIGHTS in error.where


def test_git_lfs_pointer_is_told_from_a_file(base):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (base / "unet" / WEIGHTS).write_text(pointer)
    assert "git lfs pull" in refusal(base).cure


def test_truncated_weights_are_refused(base):
    file = base / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])
    assert "cannot be read" in refusal(base).what


def test_missing_tensor_is_refused_rather_than_left_random(base):
    file = base / "unet" / WEIGHTS
    tensors = load_file(file)
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    error = refusal(base)
    assert "missing keys mid_block.resnets.0.conv1.weight" in error.what


def test_tensor_of_another_shape_is_refused(base):
    file = base / "vae" / WEIGHTS
    tensors = load_file(file)
    tensors["encoder.conv_in.weight"] = torch.zeros(9, 3, 3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    assert refusal(base).where.endswith(f"vae/{WEIGHTS}")


def test_config_that_is_not_json_is_refused(base):
    (base / "vae/config.json").write_text("{")
    assert refusal(base).what == "config.json is not JSON"


def test_fp16_variant_is_found_and_widened(base):
    for part in ("unet", "vae"):
        file = base / part / WEIGHTS
        halves = {k: v.half() for k, v in load_file(file).items()}
        save_file(halves, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
        file.unlink()
    got = load(base)
    assert got.unet.dtype == got.vae.dtype == torch.float32
    assert got.fingerprint == sd21.random_base(TINY, seed=5).fingerprint


def test_fingerprint_is_that_of_the_files_whatever_the_type_loaded(base):
    want = sd21.random_base(TINY, seed=5).fingerprint
    wide = sd21.load_base(base, TINY, prompt_start="normal")
    narrow = sd21.load_base(base, TINY, prompt_start="normal", dtype=torch.bfloat16)
    assert wide.fingerprint == narrow.fingerprint == want
    assert narrow.unet.dtype == narrow.vae.dtype == torch.bfloat16


def test_old_names_of_the_vae_attention_still_load(base):
    """SD 2.1's own VAE file names its attention query, key, value and proj_attn."""
    file = base / "vae" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        tensors[name] = tensor
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    want = sd21.random_base(TINY, seed=5).vae.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in load(base).vae.state_dict().items())


def test_empty_prompt_without_a_text_encoder_names_the_way_round(base):
    with pytest.raises(ModelError) as caught:
        sd21.load_base(base, TINY, prompt_start="empty")
    assert "text_encoder" in caught.value.what
    assert "prompt.start" in caught.value.cure


def test_empty_prompt_is_what_the_text_encoder_says_of_its_ids(base):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=5,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    ).eval()
    encoder.save_pretrained(base / "text_encoder")
    (base / "tokenizer").mkdir()
    (base / "tokenizer/vocab.json").write_text('{"!": 0, "<start>": 3, "<end>": 4}')
    (base / "tokenizer/special_tokens_map.json").write_text(
        '{"bos_token": {"content": "<start>"}, "eos_token": "<end>", "pad_token": "!"}'
    )
    got = sd21.load_base(base, TINY, prompt_start="empty").prompt
    with torch.no_grad():
        want = encoder(torch.tensor([[3, 4] + [0] * 75])).last_hidden_state
    assert got.shape == (1, 77, 8)
    torch.testing.assert_close(got, want)


def test_hub_name_without_a_network_gives_one_clear_error(tmp_path):
    code = (
        "from fidediff_model.model import presets; from fidediff_model.errors import ModelError\n"
        "from fidediff_model.weights import sd21 as pretrained\n"
        "try: pretrained.load_base('nobody/absent', presets.preset('tiny').base)\n"
        "except ModelError as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("nobody/absent is neither a local folder nor a model")
    assert "cure:" in done.stdout
