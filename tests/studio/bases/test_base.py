"""Bases: opened from folders, single files and the hub's cache; equal to diffusers' pipelines."""

# diffusers registers tensors of its schedulers as attributes.
# pyright: reportCallIssue=false

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn

import studio
from studio.bases.architecture import detect_family
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.opening.single_file import _scheduler_config
from studio.bases.real_config import real_config
from studio.bases.resolve import files_to_download
from studio.bases.samplers import SCHEDULERS, SPACINGS, SPACINGS_OF
from studio.bases.schedulers import KINDS, can_space
from studio.errors import BadInput
from tests.original import original_keys, save_original, single_file
from tests.tiny import tiny_sd2

PROMPTS = ["a photo of sks robot", "two zebras"]


@pytest.fixture(scope="module", params=["sdxl", "sd1", "sd2"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{family}_folder")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    """Shared: a test that changes a base loads its own."""
    return load_base(folder)


@pytest.fixture(scope="module")
def pipeline(family: str, folder: Path):
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    found = kind.from_pretrained(folder)
    found.set_progress_bar_config(disable=True)
    return found


def scheduler_of(base: Base, name: str | None, *, steps: int) -> Any:
    """Set to so many steps; of any type, for diffusers annotates no two of them alike."""
    scheduler = base.scheduler(name)
    scheduler.set_timesteps(steps)
    return scheduler


def latents(count: int = 2, *, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randn(count, 4, height, width, generator=torch.Generator().manual_seed(0))


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# The same as diffusers' pipelines


@torch.no_grad()
def test_text_is_encoded_as_the_pipeline_does(base: Base, pipeline):
    text = base.encode_text(PROMPTS)
    expected = pipeline.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(text.hidden, expected[0])
    if base.family == "sdxl":
        assert text.pooled is not None
        assert torch.equal(text.pooled, expected[2])
        assert text.hidden.shape == (2, 77, 80)
    else:
        assert text.pooled is None


@torch.no_grad()
def test_the_unet_is_called_as_the_pipeline_calls_it(base: Base, pipeline):
    text, noisy, time = base.encode_text(PROMPTS), latents(width=16), torch.tensor([10, 700])
    predicted = base.predict(
        noisy, time, text, time_ids=base.time_ids(original=(90, 80), crop=(1, 2), target=(64, 128))
    )
    added = None
    if base.family == "sdxl":
        ids = pipeline._get_add_time_ids((90, 80), (1, 2), (64, 128), torch.float32, 40)
        added = {"text_embeds": text.pooled, "time_ids": ids.repeat(2, 1)}
    expected = pipeline.unet(noisy, time, text.hidden, added_cond_kwargs=added).sample
    torch.testing.assert_close(predicted, expected, rtol=1e-5, atol=1e-5)


def test_without_time_ids_pictures_are_whole_and_of_the_latents_size(sdxl_folder: Path):
    base = load_base(sdxl_folder)
    text, noisy = base.encode_text(["a", "b"]), latents(width=16)
    said = base.time_ids(original=(64, 128), crop=(0, 0), target=(64, 128))
    assert torch.equal(base.predict(noisy, 5, text), base.predict(noisy, 5, text, time_ids=said))


def test_a_picture_drawn_by_hand_is_the_pipelines(base: Base, pipeline):
    """Four guided steps with the calls of Base, against the whole pipeline."""
    expected = pipeline(
        "a red robot",
        negative_prompt="a blue dog",
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=latents(1),
        output_type="pt",
    ).images
    scheduler = scheduler_of(base, None, steps=4)
    with torch.no_grad():
        text = base.encode_text(["a blue dog", "a red robot"])
        noisy = latents(1) * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(noisy, time)
            without, with_prompt = base.predict(torch.cat([scaled] * 2), time, text).chunk(2)
            guided = without + 5.0 * (with_prompt - without)
            noisy = scheduler.step(guided, time, noisy, return_dict=False)[0]
    torch.testing.assert_close(base.decode(noisy), expected, atol=1e-4, rtol=0)


def test_latents_are_the_vaes_scaled(base: Base, pipeline):
    pictures = torch.rand(2, 3, 64, 32) * 2 - 1
    posterior = pipeline.vae.encode(pictures).latent_dist
    factor = pipeline.vae.config.scaling_factor
    sampled = base.encode_pictures(pictures, generator=torch.Generator().manual_seed(3))
    expected = posterior.sample(torch.Generator().manual_seed(3)) * factor
    assert sampled.shape == (2, 4, 8, 4)
    torch.testing.assert_close(sampled, expected)
    torch.testing.assert_close(
        base.encode_pictures(pictures, sample=False), posterior.mean * factor
    )


def test_a_base_knows_its_size_and_noise(base: Base, pipeline):
    assert (base.size, base.latent_factor) == (64, 8)
    assert base.step == (32 if base.family == "sdxl" else 64)
    assert base.prediction_type == pipeline.scheduler.config.prediction_type
    assert base.prediction_type == ("v_prediction" if base.family == "sd2" else "epsilon")
    torch.testing.assert_close(base.alphas_cumprod, pipeline.scheduler.alphas_cumprod)


def test_everything_is_frozen(base: Base):
    for part in (base.unet, base.vae, *base.text_encoders):
        assert not part.training
        assert not any(weight.requires_grad for weight in part.parameters())


def test_gradients_pass_through_to_what_is_attached(folder: Path):
    """Frozen weights, but both calls stay differentiable: adapters sit in front of them."""
    base = load_base(folder)
    layer = base.layers()["text_encoder.text_model.encoder.layers.0.self_attn.q_proj"]
    layer.weight.requires_grad_(True)
    base.predict(latents(1), 5, base.encode_text(["a"])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


# Layers


def test_layers_have_the_names_that_diffusers_writes(base: Base, pipeline):
    found = base.layers()
    expected = {
        f"unet.{path}"
        for path, module in pipeline.unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    assert {name for name in found if name.startswith("unet.")} == expected
    assert all(isinstance(module, nn.Linear | nn.Conv2d) for module in found.values())
    spoken = {name.split(".")[0] for name in found}
    assert spoken == {"unet", "text_encoder"} | (
        {"text_encoder_2"} if base.family == "sdxl" else set()
    )
    ends = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj")
    for encoder in spoken - {"unet"}:
        for number in range(2):
            for end in (*ends, "mlp.fc1", "mlp.fc2"):
                assert f"{encoder}.text_model.encoder.layers.{number}.{end}" in found
    assert base.layers() is found


# METHODS.md: weights of the UNets; the text encoders' as published with the models.
COUNTS = {
    "sd15": ("sd1", 859_520_964, [123_060_480], 512, "epsilon"),
    "sd21": ("sd2", 865_910_724, [340_387_840], 768, "v_prediction"),
    "sdxl": ("sdxl", 2_567_463_684, [123_060_480, 694_659_840], 1024, "epsilon"),
}
ATTENTION = {"sd15": (128, 93_511_680), "sd21": (128, 99_901_440), "sdxl": (560, 955_187_200)}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_configurations_have_the_published_counts(name: str):
    base = real_config(name)
    family, unet, texts, size, prediction = COUNTS[name]
    assert (base.family, base.size, base.prediction_type) == (family, size, prediction)
    assert sum(weight.numel() for weight in base.unet.parameters()) == unet
    assert [sum(w.numel() for w in one.parameters()) for one in base.text_encoders] == texts
    assert sum(weight.numel() for weight in base.vae.parameters()) == 83_653_863
    projections = [
        layer.weight.numel()
        for key, layer in base.layers().items()
        if key.startswith("unet.") and key.endswith(("to_q", "to_k", "to_v", "to_out.0"))
    ]
    assert (len(projections), sum(projections)) == ATTENTION[name]
    assert all(weight.is_meta for weight in base.unet.parameters())


def test_another_configuration_is_refused():
    with pytest.raises(BadInput, match="choose sd15, sd21, sdxl"):
        real_config("flux")


# Schedulers


@pytest.mark.parametrize("name", [None, *SCHEDULERS])
def test_schedulers_share_the_bases_noise(base: Base, name: str | None):
    scheduler = base.scheduler(name)
    assert scheduler is not base.scheduler(name)
    assert scheduler.config["prediction_type"] == base.prediction_type
    torch.testing.assert_close(scheduler.alphas_cumprod, base.alphas_cumprod)
    assert not scheduler.config.get("clip_sample", False)  # latents lie outside -1 .. 1


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "unipc", "ddim"])
def test_schedulers_that_add_no_noise_walk_a_perfect_prediction_back(base: Base, name: str):
    """Noise a picture; told the true noise (or velocity) at every step, each one removes it."""
    clean, noise = latents(3).split([2, 1])
    noise, scheduler = noise.expand_as(clean), scheduler_of(base, name, steps=20)
    noisy = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    for time in scheduler.timesteps:
        keep = base.alphas_cumprod[int(time)]
        truth = noise
        if base.prediction_type == "v_prediction":
            truth = keep.sqrt() * noise - (1 - keep).sqrt() * clean
        noisy = scheduler.step(truth, time, noisy, return_dict=False)[0]
    # SD's DDIM stops at the first training step, where 0.085 % of the variance is noise.
    keep = base.alphas_cumprod[0] if name == "ddim" else torch.tensor(1.0)
    expected = keep.sqrt() * clean + (1 - keep).sqrt() * noise
    torch.testing.assert_close(noisy, expected, atol=2e-3, rtol=0)


def test_another_scheduler_is_refused(sd1_folder: Path):
    with pytest.raises(BadInput, match="no scheduler 'plms': choose euler, euler_a, heun, "):
        load_base(sd1_folder).scheduler("plms")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_spacings_of_a_sampler_are_those_that_diffusers_has(name: str):
    kind, _ = KINDS[name]
    assert [one for one in SPACINGS if can_space(kind, one)] == list(SPACINGS_OF[name])


def test_zero_terminal_snr_keeps_no_signal_in_the_last_step(tmp_path: Path):
    base = load_base(tiny_sd2(tmp_path / "zero", zero_terminal_snr=True))
    assert base.prediction_type == "v_prediction"
    assert base.alphas_cumprod[-1] == 0
    assert base.alphas_cumprod[0] == pytest.approx(1 - 0.00085)
    for name in SCHEDULERS:
        if name in ("heun", "dpmpp_sde"):  # of which diffusers' can't begin there
            with pytest.raises(BadInput, match=f"where {name} can't: choose euler, euler_a, "):
                base.scheduler(name)
            continue
        scheduler = scheduler_of(base, name, steps=4)
        assert scheduler.timesteps[0] == 999
        # Euler and the multistep solvers divide by this: diffusers keeps it just above zero.
        assert scheduler.alphas_cumprod[-1] <= 2**-24


# Precision, attention, memory


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@torch.no_grad()
def test_half_precision_is_that_of_diffusers(base: Base, pipeline, folder: Path, dtype: str):
    """To the bit. How near it comes to single precision depends on the processor's own sums."""
    half = load_base(folder, dtype=dtype)
    assert half.unet.dtype == half.dtype != torch.float32
    text = half.encode_text(["a robot"])
    assert text.hidden.dtype == half.dtype
    ours = half.predict(latents(1), 500, text)
    assert ours.dtype == torch.float32
    theirs = type(pipeline).from_pretrained(folder).to(half.dtype)
    hidden, _, *rest = theirs.encode_prompt(
        "a robot", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    added = None
    if base.family == "sdxl":
        ids = theirs._get_add_time_ids((64, 64), (0, 0), (64, 64), half.dtype, 40)
        added = {"text_embeds": rest[0], "time_ids": ids}
    expected = theirs.unet(latents(1).to(half.dtype), 500, hidden, added_cond_kwargs=added).sample
    assert torch.equal(ours, expected.float())
    exact = base.predict(latents(1), 500, base.encode_text(["a robot"]))
    assert not torch.equal(ours, exact)
    assert half.fingerprint() == base.fingerprint()


def overflowing(folder: Path, to: Path, *, force_upcast: bool) -> Path:
    """A copy whose VAE passes float16's 65,504 on its way, as SDXL's does."""
    copied(folder, to)
    edited(to / "vae" / "config.json", force_upcast=force_upcast)
    path = to / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_in.weight"] *= 1e5
    save_file(weights, path, {"format": "pt"})
    return to


@pytest.mark.parametrize("force_upcast", [True, False])
def test_a_vae_that_overflows_in_fp16_still_decodes(
    sdxl_folder: Path, tmp_path: Path, force_upcast: bool
):
    folder = overflowing(sdxl_folder, tmp_path / "sdxl", force_upcast=force_upcast)
    half, exact = load_base(folder, dtype="fp16"), load_base(folder)
    assert half.vae.dtype == (torch.float32 if force_upcast else torch.float16)
    assert half.unet.dtype == torch.float16
    decoded = half.decode(latents(1))
    assert torch.isfinite(decoded).all()
    torch.testing.assert_close(decoded, exact.decode(latents(1)), atol=0.02, rtol=0)


def test_vae_slicing_decodes_the_same(sdxl_folder: Path):
    sliced = load_base(sdxl_folder, vae_slicing=True)
    assert sliced.vae.use_slicing
    torch.testing.assert_close(sliced.decode(latents()), load_base(sdxl_folder).decode(latents()))


def test_vae_tiling_decodes_large_pictures_in_tiles(sdxl_folder: Path, monkeypatch):
    tiled = load_base(sdxl_folder, vae_tiling=True)
    seen: list[int] = []
    whole = tiled.vae.decoder.forward
    monkeypatch.setattr(
        tiled.vae.decoder,
        "forward",
        lambda z, *rest: (seen.append(z.shape[-1]), whole(z, *rest))[1],
    )
    assert tiled.decode(latents(1, height=24, width=24)).shape == (1, 3, 192, 192)
    assert len(seen) > 1
    assert max(seen) < 24


def test_offloading_keeps_only_the_part_at_work_on_the_device(sdxl_folder: Path):
    """There is no GPU to move to here: the meta device stands for it."""
    base = load_base(sdxl_folder)
    base.offload, base.device = True, torch.device("meta")
    base.move_to_device(base.unet)
    assert base.unet.device.type == "meta"
    assert {part.device.type for part in (base.vae, *base.text_encoders)} == {"cpu"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attention": "xformers"}, "run `pip install xformers`"),
        ({"attention": "flash"}, "choose sdpa or xformers"),
        ({"offload": True, "device": "cpu"}, "the device is cpu: leave it out"),
        ({"dtype": "fp8"}, "choose auto, fp32, fp16, bf16"),
        ({"device": "cuda:7"}, "PyTorch sees no GPU 'cuda:7'"),
        ({"device": "gpu"}, "There is no device 'gpu'"),
        ({"prediction": "x0"}, "choose auto, epsilon or v_prediction"),
    ],
)
def test_options_that_cannot_be_had_are_refused(sdxl_folder: Path, options: dict, said: str):
    with pytest.raises(BadInput, match=said):
        load_base(sdxl_folder, **options)


# Fingerprint


def test_the_fingerprint_tells_unets_apart(base: Base, folder: Path, tmp_path: Path):
    assert load_base(folder).fingerprint() == base.fingerprint()
    other = copied(folder, tmp_path / "other")
    path = other / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"] += 0.01 * torch.randn_like(weights["conv_in.weight"])
    save_file(weights, path, {"format": "pt"})
    assert load_base(other).fingerprint() != base.fingerprint()


# Sources: folders


def test_a_base_is_named_after_its_folder(sdxl_folder: Path, tmp_path: Path):
    base = load_base(copied(sdxl_folder, tmp_path / "my-sdxl-v1.5"))
    assert base.name == "my-sdxl-v1.5"
    assert base.source == str(tmp_path / "my-sdxl-v1.5")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("model_index.json", "not a base in the diffusers layout"),
        ("unet/config.json", r"config\.json is missing"),
        ("unet/diffusion_pytorch_model.safetensors", r"no unet weights \(\.safetensors\)"),
        ("text_encoder_2/model.safetensors", "no text_encoder_2 weights"),
        ("scheduler/scheduler_config.json", "is missing"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    sdxl_folder: Path, tmp_path: Path, missing: str, said: str
):
    folder = copied(sdxl_folder, tmp_path / "part")
    (folder / missing).unlink()
    with pytest.raises(BadInput, match=said):
        load_base(folder)


def test_damaged_weights_are_refused(sdxl_folder: Path, tmp_path: Path):
    folder = copied(sdxl_folder, tmp_path / "cut")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadInput, match="could not be opened"):
        load_base(folder)


def test_missing_tensors_are_named(sd1_folder: Path, tmp_path: Path):
    folder = copied(sd1_folder, tmp_path / "holes")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(BadInput, match=r"conv_in\.weight"):
        load_base(folder)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("unet/config.json", {"in_channels": 9}, "takes 9 latent channels"),
        ("unet/config.json", {"_class_name": "UNetSpatioTemporal"}, "is a UNetSpatioTemporal"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "not of the SD family",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts 'sample'"),
    ],
)
def test_models_of_another_kind_are_refused(
    sd1_folder: Path, tmp_path: Path, part: str, changes: dict, said: str
):
    folder = copied(sd1_folder, tmp_path / "other")
    edited(folder / part, **changes)
    with pytest.raises(BadInput, match=said):
        load_base(folder)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("unet/config.json", {"block_out_channels": None}, "could not be opened"),
        ("unet/config.json", {"sample_size": None}, "sample_size of its UNet2DConditionModel is"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor of its AutoencoderKL is 'x'"),
        ("text_encoder/config.json", {"hidden_size": "x"}, "could not be opened"),
        ("text_encoder/config.json", {"eos_token_id": None}, "eos_token_id of its CLIPTextModel"),
        ("text_encoder/config.json", {"layer_norm_eps": None}, "layer_norm_eps of its CLIPTextMod"),
        ("scheduler/scheduler_config.json", {"beta_start": None}, "could not be opened"),
    ],
)
def test_a_damaged_configuration_is_refused(
    sd1_folder: Path, tmp_path: Path, part: str, changes: dict, said: str
):
    folder = copied(sd1_folder, tmp_path / "odd")
    edited(folder / part, **changes)
    with pytest.raises(BadInput, match=said):
        load_base(folder)


def test_a_tokenizer_without_a_length_has_that_of_its_encoder(sd1_folder: Path, tmp_path: Path):
    folder = copied(sd1_folder, tmp_path / "odd")
    edited(folder / "tokenizer/tokenizer_config.json", model_max_length=None)
    base = load_base(folder, device="cpu")
    assert base.encode_text(["a cat"]).hidden.shape[1] == 77


def test_fp16_files_are_taken_for_half_precision_and_where_there_are_no_others(
    sd1_folder: Path, tmp_path: Path
):
    folder = copied(sd1_folder, tmp_path / "variants")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {key: (2 * one).half() for key, one in load_file(path).items()}
    small = path.with_name("diffusion_pytorch_model.fp16.safetensors")
    save_file(weights, small, {"format": "pt"})
    full = load_file(path)["conv_in.weight"]
    assert torch.equal(load_base(folder).unet.conv_in.weight, full)
    doubled = weights["conv_in.weight"]
    assert torch.equal(load_base(folder, dtype="fp16").unet.conv_in.weight, doubled)
    path.unlink()
    assert torch.equal(load_base(folder).unet.conv_in.weight, doubled.float())


# Sources: pickles, and names


@pytest.mark.parametrize("suffix", ["ckpt", "bin", "pt", "pth"])
def test_pickled_checkpoints_are_refused_there_or_not(tmp_path: Path, suffix: str):
    with pytest.raises(BadInput, match="is a pickle, which can run any code"):
        load_base(tmp_path / f"model.{suffix}")


def test_the_command_that_the_refusal_of_a_pickle_gives_converts_it(tmp_path: Path):
    torch.save({"state_dict": {"a": torch.ones(2, 3)}}, tmp_path / "my model.ckpt")
    with pytest.raises(BadInput) as refusal:
        load_base(tmp_path / "my model.ckpt")
    command = str(refusal.value).split("with ", 1)[1].split(" and give")[0]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    assert torch.equal(load_file(tmp_path / "my model.safetensors")["a"], torch.ones(2, 3))


def test_pickled_parts_of_a_folder_are_refused(sd1_folder: Path, tmp_path: Path):
    folder = copied(sd1_folder, tmp_path / "old")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(BadInput, match="keeps its unet as a pickle"):
        load_base(folder)


@pytest.mark.parametrize(
    "source", ["sketchy", "./nowhere/at all", "nowhere.safetensors", "a/" + "b" * 5000 + "!", ""]
)
def test_a_name_that_means_nothing_is_refused(source: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="sketch, sketch-sd1" if source else "model_index"):
        load_base(source)


def test_an_unbuilt_sketch_says_how_to_build_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("studio.assets.CLONED", tmp_path)
    with pytest.raises(BadInput, match=r"python -m studio\.sketch\.build"):
        load_base("sketch")


# Sources: the hub


def cached(folder: Path, cache: Path, repository: str) -> Path:
    """Lay a folder out as the Hugging Face cache keeps a downloaded repository."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    return copied(folder, home / "snapshots" / ("0" * 40))


def test_an_unknown_hub_id_offline_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="'nobody/nothing' is not on this machine and the Hugging"):
        load_base("nobody/nothing")


def test_a_hub_id_opens_from_the_cache_offline(sdxl_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kept = cached(sdxl_folder, tmp_path, "someone/tiny-sdxl")
    base = load_base("someone/tiny-sdxl")
    assert (base.name, base.family) == ("someone/tiny-sdxl", "sdxl")
    (kept / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInput, match="is not on this machine"):
        load_base("someone/tiny-sdxl")


REPOSITORY = [
    "README.md",
    "model_index.json",
    "sd_xl_base_1.0.safetensors",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_flax_model.msgpack",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "vae_decoder/model.onnx",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
]


def test_only_one_set_of_weights_is_downloaded():
    full = files_to_download(REPOSITORY, "x", half=False)
    assert "unet/diffusion_pytorch_model-00002-of-00002.safetensors" in full
    assert "unet/diffusion_pytorch_model.safetensors.index.json" in full
    half = files_to_download(REPOSITORY, "x", half=True)
    assert [name for name in half if name.endswith(".safetensors")] == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
    ]
    for wanted in (full, half):
        assert {"model_index.json", "tokenizer/merges.txt", "unet/config.json"} <= set(wanted)
        assert not any(name.endswith((".onnx", ".msgpack", ".bin", ".md")) for name in wanted)
        assert not any("fp16" in name for name in wanted) or wanted is half
    pickled = [name.replace("model.safetensors", "model.bin") for name in REPOSITORY]
    with pytest.raises(BadInput, match="keeps its vae as a pickle"):
        files_to_download(pickled, "x", half=False)


# Sources: single files


@torch.no_grad()
def test_a_single_file_is_the_base_it_was_made_from(
    base: Base, folder: Path, family: str, tmp_path: Path
):
    opened = load_base(single_file(folder, tmp_path / "model.safetensors", family))
    assert (opened.family, opened.name, opened.size) == (family, "model", 64)
    assert opened.prediction_type == base.prediction_type
    parts = zip(
        (base.unet, base.vae, *base.text_encoders),
        (opened.unet, opened.vae, *opened.text_encoders),
        strict=True,
    )
    for ours, theirs in parts:
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for key, weight in ours.state_dict().items():
            assert torch.equal(weight, theirs.state_dict()[key]), key
    text = opened.encode_text(PROMPTS)
    assert torch.equal(text.hidden, base.encode_text(PROMPTS).hidden)
    torch.testing.assert_close(
        opened.predict(latents(), 5, text), base.predict(latents(), 5, text), rtol=1e-4, atol=1e-4
    )
    assert opened.fingerprint() == base.fingerprint()


def test_a_single_file_opens_in_half_precision(sdxl_folder: Path, tmp_path: Path):
    path = single_file(sdxl_folder, tmp_path / "model.safetensors", "sdxl")
    half = load_base(path, dtype="fp16")
    assert half.unet.dtype == half.text_encoders[1].dtype == torch.float16
    assert half.vae.dtype == torch.float32
    assert torch.isfinite(half.predict(latents(1), 5, half.encode_text(["a"]))).all()


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_models_are_told_apart_by_their_keys(name: str):
    """Every key of the real checkpoints, on the meta device, as diffusers' loader reads it."""
    base = real_config(name)
    texts = zip(("text_encoder", "text_encoder_2"), base.text_encoders, strict=False)
    weights = original_keys(
        base.unet.state_dict(),
        base.vae.state_dict(),
        {part: encoder.state_dict() for part, encoder in texts},
        family=base.family,
        layers=2,
    )
    assert detect_family({key: tuple(one.shape) for key, one in weights.items()}, "") == base.family
    converted = convert_ldm_unet_checkpoint(weights, dict(base.unet.config))
    expected = {key: one.shape for key, one in base.unet.state_dict().items()}
    assert {key: one.shape for key, one in converted.items()} == expected


@pytest.mark.parametrize(
    ("extra", "metadata", "prediction", "options"),
    [
        ({}, {}, "epsilon", {}),
        ({"v_pred": torch.zeros(0)}, {}, "v_prediction", {}),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction", {}),
        ({}, {}, "v_prediction", {"prediction": "v_prediction"}),
        ({"v_pred": torch.zeros(0)}, {}, "epsilon", {"prediction": "epsilon"}),
    ],
)
def test_a_single_file_says_what_it_predicts(
    sdxl_folder: Path, tmp_path: Path, extra: dict, metadata: dict, prediction: str, options: dict
):
    path = tmp_path / "model.safetensors"
    single_file(sdxl_folder, path, "sdxl", extra=extra, metadata=metadata)
    assert load_base(path, **options).prediction_type == prediction


def test_a_single_file_may_ask_for_zero_terminal_snr(sdxl_folder: Path, tmp_path: Path):
    extra = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = single_file(sdxl_folder, tmp_path / "model.safetensors", "sdxl", extra=extra)
    base = load_base(path)
    assert base.alphas_cumprod[-1] == 0
    scheduler = scheduler_of(base, None, steps=4)
    assert scheduler.timesteps[0] == 999


@pytest.mark.parametrize(
    ("spread", "metadata", "prediction"),
    [
        (0.2, {}, "v_prediction"),
        (0.01, {}, "epsilon"),
        (0.2, {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
        (0.01, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
    ],
)
def test_the_two_kinds_of_sd2_are_told_apart(
    sd2_folder: Path, tmp_path: Path, spread: float, metadata: dict, prediction: str
):
    """Of this tiny UNet the norm is elsewhere; what the file says of it is all that is read."""
    norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    path = tmp_path / "model.safetensors"
    extra = {norm: spread * torch.tensor([1.0, -1.0, 1.0, -1.0])}
    weights = load_file(save_original(sd2_folder, path, family="sd2", layers=1)) | extra
    config = _scheduler_config(sd2_folder, "sd2", weights, metadata, "auto")
    assert config["prediction_type"] == prediction


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"lora_unet_mid.lora_down.weight": (4, 8)}, "is an adapter, not a base"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 8)}, "not a Stable Diffusion 1.x, 2.x or XL"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4,)}, "not a Stable Diffusion 1.x"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 9, 3, 3)}, "takes 9 latent"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "holds no text encoder"),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3),
                "conditioner.embedders.0.model.ln_final.weight": (4,),
            },
            "is an SDXL refiner",
        ),
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, weights: dict, said: str):
    path = tmp_path / "model.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in weights.items()}, path)
    with pytest.raises(BadInput, match=said):
        load_base(path)


def test_files_that_are_no_safetensors_are_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02pickled")
    with pytest.raises(BadInput, match="is a pickle"):
        load_base(tmp_path / "model.safetensors")
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"give a \.safetensors file or a diffusers folder"):
        load_base(tmp_path / "picture.png")


def test_a_checkpoint_of_other_widths_is_refused(sd1_folder: Path, tmp_path: Path):
    """With no configuration of its own beside it, SD 1.5's is taken, and does not fit."""
    path = save_original(sd1_folder, tmp_path / "model.safetensors", family="sd1", layers=1)
    shutil.copytree(sd1_folder / "tokenizer", tmp_path / "tokenizer")
    with pytest.raises(BadInput, match="could not be opened"):
        load_base(path)


def test_tokenizers_come_from_beside_the_file_or_the_cache_or_are_asked_for(
    sdxl_folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    path = single_file(sdxl_folder, tmp_path / "model.safetensors", "sdxl")
    beside = load_base(path).encode_text(PROMPTS)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(tmp_path / "model" / name)
    with pytest.raises(BadInput, match="holds no tokenizer and there is none on this machine"):
        load_base(path)

    # CLIP's vocabulary, as openai/clip-vit-large-patch14 keeps it; SDXL pads twice differently.
    model = json.loads((sdxl_folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "clip" / "merges.txt").write_text("\n".join(merges))
    cached(tmp_path / "clip", tmp_path / "cache", "openai/clip-vit-large-patch14")
    text = load_base(path).encode_text(PROMPTS)
    assert torch.equal(text.hidden, beside.hidden)


# Import


def test_studio_gives_its_nouns():
    assert studio.load_base is load_base
    assert studio.Base is Base
    assert studio.BadInput is BadInput
    with pytest.raises(AttributeError, match="no attribute 'basis'"):
        studio.basis  # noqa: B018
