"""Bases as people have them: parts named otherwise, left out, or of kinds that are not had here."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, LCMScheduler
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

import compose
import trainers
from studio.bases.architecture import detect_family
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.opening.checkpoint_names import with_usual_names
from studio.bases.opening.single_file import _scheduler_config
from studio.bases.real_config import real_config
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe, save_picture
from studio.requests.shot import Shot
from tests.original import original_keys, save_original, single_file
from tests.tiny import tiny_sd1

Weights = dict[str, Tensor]


def rewrite(path: Path, change: Callable[[Weights], Weights]) -> Path:
    changed = change(load_file(path))
    save_file({key: one.contiguous() for key, one in changed.items()}, path)
    return path


def assert_same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for key, one in found.state_dict().items():
        assert torch.equal(one, weights[key]), key


# Names


def flat(key: str) -> str:
    """As NovelAI's leaked model has CLIP (ComfyUI, sd.py: `cond_stage_model.transformer`)."""
    return key.replace(".transformer.text_model.", ".transformer.")


def as_diffusers_has_attention(weights: Weights, names: dict[str, str]) -> Weights:
    """The VAE's attention as linear layers with these names for q, k, v and proj_out."""
    found = {}
    for key, one in weights.items():
        parts = key.split(".")
        if "attn_1" in parts and parts[-2] in names:
            key = key.replace(f".{parts[-2]}.", f".{names[parts[-2]]}.")
            one = one.flatten(1) if one.ndim == 4 else one
        found[key] = one
    return found


NEW = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}
OLD = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn", "norm": "group_norm"}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_clip_is_read_without_its_first_level(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{family}_folder")
    path = single_file(folder, tmp_path / "model.safetensors", family)
    rewrite(path, lambda weights: {flat(key): one for key, one in weights.items()})
    base, expected = load_base(path), load_base(folder)
    assert base.family == family
    for found, own in zip(base.text_encoders, expected.text_encoders, strict=True):
        assert_same_weights(found, own)


@pytest.mark.parametrize("names", [NEW, OLD])
def test_the_vaes_attention_is_read_by_diffusers_names(
    sd1_folder: Path, tmp_path: Path, names: dict[str, str]
) -> None:
    path = single_file(sd1_folder, tmp_path / "model.safetensors", "sd1")
    rewrite(path, lambda weights: as_diffusers_has_attention(weights, names))
    assert_same_weights(load_base(path).vae, load_base(sd1_folder).vae)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_every_key_of_the_real_models_maps(name: str) -> None:
    """On the meta device: from the names above to those of the original checkpoints."""
    base = real_config(name)
    texts = zip(("text_encoder", "text_encoder_2"), base.text_encoders, strict=False)
    usual = original_keys(
        base.unet.state_dict(),
        base.vae.state_dict(),
        {part: encoder.state_dict() for part, encoder in texts},
        family=base.family,
        layers=2,
    )
    for names in (NEW, OLD):
        other = as_diffusers_has_attention(usual, names)
        other = {flat(key): one for key, one in other.items()}
        assert other.keys() != usual.keys()
        shapes = {key: tuple(one.shape) for key, one in other.items()}
        assert detect_family(shapes, "") == base.family
        assert with_usual_names(other).keys() == usual.keys()
    assert with_usual_names(usual).keys() == usual.keys()


def test_what_training_left_in_a_checkpoint_is_passed_over(
    sd1_folder: Path, tmp_path: Path
) -> None:
    """An average of the weights (EMA), position ids of 64 bits, and weights of 8 bits."""
    path = single_file(sd1_folder, tmp_path / "model.safetensors", "sd1")
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"

    def with_remains(weights: Weights) -> Weights:
        ema = {
            f"model_ema.{key.removeprefix('model.').replace('.', '')}": torch.zeros_like(one)
            for key, one in weights.items()
            if key.startswith("model.")
        }
        return weights | ema | {ids: torch.arange(77)[None], "model_ema.decay": torch.tensor(0.9)}

    rewrite(path, with_remains)
    base, expected = load_base(path), load_base(sd1_folder)
    assert_same_weights(base.unet, expected.unet)

    def in_eight_bits(weights: Weights) -> Weights:
        return {
            key: one.to(torch.float8_e4m3fn) if key.startswith("model.diffusion") else one
            for key, one in weights.items()
        }

    small = load_base(rewrite(path, in_eight_bits)).unet.state_dict()
    for key, one in expected.unet.state_dict().items():
        assert torch.equal(small[key], one.to(torch.float8_e4m3fn).to(torch.float32)), key


def test_missing_weights_are_refused_in_plain_words(sd1_folder: Path, tmp_path: Path) -> None:
    path = single_file(sd1_folder, tmp_path / "model.safetensors", "sd1")
    rewrite(path, lambda all: {key: one for key, one in all.items() if "mid.attn_1.q" not in key})
    with pytest.raises(BadInput, match="lacks weights of its AutoencoderKL, or names them"):
        load_base(path)


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_several_files_are_joined(
    sd1_folder: Path, tmp_path: Path, variant: str
) -> None:
    folder = Path(shutil.copytree(sd1_folder, tmp_path / "model"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights, index = load_file(file), {}
    file.unlink()
    if variant:
        weights = {key: one.half() for key, one in weights.items()}
    for number in (1, 2):
        part = dict(sorted(weights.items())[number - 1 :: 2])
        name = f"diffusion_pytorch_model{variant}-{number:05d}-of-00002.safetensors"
        save_file(part, file.with_name(name))
        index |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    file.with_name(f"{file.name}.index{variant}.json").write_text(text)
    found = load_base(folder).unet.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], one.float()) for key, one in weights.items())


# A VAE of its own


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, whose VAE is taken."""
    return tiny_sd1(tmp_path_factory.mktemp("other") / "model", seed=7)


def vae_of(folder: Path) -> AutoencoderKL:
    found = AutoencoderKL.from_pretrained(folder / "vae")
    assert isinstance(found, AutoencoderKL)
    return found


def vae_file(folder: Path, to: Path, layout: str) -> Path:
    """A VAE in one file: bare as StabilityAI's, cut out of a checkpoint, or diffusers'."""
    if layout == "diffusers":
        shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", to)
        return to
    prefix = "first_stage_model."
    save_original(folder, to, family="sd1", layers=1)
    return rewrite(
        to,
        lambda weights: {
            key if layout == "cut out" else key.removeprefix(prefix): one
            for key, one in weights.items()
            if key.startswith(prefix)
        },
    )


def without_vae(folder: Path, to: Path) -> Path:
    path = single_file(folder, to, "sd1")
    return rewrite(
        path, lambda all: {key: one for key, one in all.items() if "first_stage" not in key}
    )


def test_a_checkpoint_without_a_vae_says_what_to_do(sd1_folder: Path, tmp_path: Path) -> None:
    path = without_vae(sd1_folder, tmp_path / "model.safetensors")
    said = r"holds no VAE: give one with --vae, .*, or put it beside as model\.vae\.safetensors"
    with pytest.raises(BadInput, match=said):
        load_base(path)


@pytest.mark.parametrize("place", ["model/vae", "model.vae.safetensors", "vae"])
def test_a_vae_beside_a_checkpoint_without_one_is_taken(
    sd1_folder: Path, other: Path, tmp_path: Path, place: str
) -> None:
    path = without_vae(sd1_folder, tmp_path / "model.safetensors")
    if place.endswith(".safetensors"):
        vae_file(other, tmp_path / place, "bare")
    else:
        shutil.copytree(other / "vae", tmp_path / place, dirs_exist_ok=True)
    base = load_base(path)
    assert_same_weights(base.vae, vae_of(other))
    assert_same_weights(base.unet, load_base(sd1_folder).unet)
    assert base.vae_source == ""  # the checkpoint is opened so wherever it lies


@pytest.mark.parametrize("layout", ["bare", "cut out", "diffusers", "folder", "whole model"])
@pytest.mark.parametrize("of", ["a folder", "a checkpoint"])
def test_a_vae_that_is_given_takes_the_place_of_the_bases(
    sd1_folder: Path, other: Path, tmp_path: Path, layout: str, of: str
) -> None:
    folders = {"folder": other / "vae", "whole model": other}
    given = folders.get(layout) or vae_file(other, tmp_path / "vae.safetensors", layout)
    base = sd1_folder
    if of == "a checkpoint":
        base = single_file(sd1_folder, tmp_path / "model.safetensors", "sd1")
    opened = load_base(base, vae=given)
    assert_same_weights(opened.vae, vae_of(other))
    assert opened.vae_source == str(given)
    assert not any(weight.requires_grad for weight in opened.vae.parameters())
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    own = vae_of(other)
    expected = own.decode(latents / own.config["scaling_factor"]).sample / 2 + 0.5
    torch.testing.assert_close(opened.decode(latents), expected.clamp(0, 1))


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("gone.safetensors", None, "There is no VAE"),
        ("~no-such-person/vae.safetensors", None, "There is no VAE"),
        ("vae.pt", None, "is a pickle"),
        ("vae.png", {}, "is not a VAE: give a .safetensors file or a diffusers folder"),
        ("a.safetensors", {"lora_up": (4, 4)}, r"is not a VAE: it has no decoder\.conv_in"),
        ("a.safetensors", {"decoder.conv_in.weight": (8,)}, "is not a VAE: it has no decoder"),
        ("b.safetensors", {"decoder.conv_in.weight": (8, 16, 3, 3)}, "a VAE of 16 latent channels"),
    ],
)
def test_what_is_no_vae_is_refused(
    sd1_folder: Path, tmp_path: Path, name: str, weights: dict | None, said: str
) -> None:
    if weights is not None:
        save_file({key: torch.zeros(*shape) for key, shape in weights.items()}, tmp_path / name)
    with pytest.raises(BadInput, match=said):
        load_base(sd1_folder, vae=name if name[0] == "~" else tmp_path / name)


def test_a_picture_says_which_vae_it_was_made_with(
    sd1_folder: Path, other: Path, tmp_path: Path
) -> None:
    plain, own = load_base(sd1_folder), load_base(sd1_folder, vae=other / "vae")
    picture = compose.render(own, Shot("a robot", steps=1))
    recipe = read_recipe(save_picture(picture, tmp_path / "a.png"))
    assert isinstance(recipe["base"], dict)
    assert recipe["base"]["vae"] == str(other / "vae")
    again = compose.render(own, compose.like(recipe, own))
    assert again.tobytes() == picture.tobytes()
    with pytest.raises(BadInput, match=rf"with the VAE {re.escape(str(other))}.*open the base so"):
        compose.like(recipe, plain)


def test_a_run_is_resumed_with_its_vae(sd1_folder: Path, other: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / "a.png")
    run, own = tmp_path / "run", load_base(sd1_folder, vae=other / "vae")
    lora = trainers.LoRA(rank=1)
    options = {"trigger": "t", "steps": 2, "save_every": 1, "run": run}
    for event in trainers.train(lora, own, tmp_path / "photos", **options):
        if isinstance(event, trainers.Saved):
            break
    opening = trainers.base_of(run)
    assert opening["vae"] == str(other / "vae")
    with pytest.raises(BadInput, match=r"was started with the VAE .*: open the base so \(vae\)"):
        trainers.resume(run, load_base(sd1_folder))
    *_, last = trainers.resume(run, load_base(**opening))
    assert isinstance(last, trainers.Finished)


# Tokenizers and schedulers


def test_a_folder_without_a_tokenizer_takes_clips_or_asks_for_one(
    sd1_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(sd1_folder, tmp_path / "model"))
    expected = load_base(folder).encode_text(["a red robot"]).hidden
    shutil.move(folder / "tokenizer", tmp_path / "kept")
    with pytest.raises(BadInput, match=r"holds no tokenizer .* put a folder `tokenizer` .* in it"):
        load_base(folder)
    home = tmp_path / "cache" / "models--openai--clip-vit-large-patch14"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    cached = home / "snapshots" / ("0" * 40)
    cached.mkdir(parents=True)
    model = json.loads((tmp_path / "kept" / "tokenizer.json").read_text())["model"]
    (cached / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (cached / "merges.txt").write_text("\n".join(merges))
    assert torch.equal(load_base(folder).encode_text(["a red robot"]).hidden, expected)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_tokenizer_may_be_its_vocabulary_alone(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As the refusal of a base without a tokenizer says."""
    folder = Path(shutil.copytree(request.getfixturevalue(f"{family}_folder"), tmp_path / "model"))
    expected = load_base(folder).encode_text(["a red robot"]).hidden
    for place in folder.glob("tokenizer*"):
        model = json.loads((place / "tokenizer.json").read_text())["model"]
        shutil.rmtree(place)
        place.mkdir()
        (place / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        (place / "merges.txt").write_text("\n".join(merges))
    assert torch.equal(load_base(folder).encode_text(["a red robot"]).hidden, expected)


def with_scheduler(folder: Path, to: Path, **changes: object) -> Base:
    shutil.copytree(folder, to)
    path = to / "scheduler" / "scheduler_config.json"
    told = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: one for key, one in told.items() if one is not None}))
    return load_base(to)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (None, "EulerDiscreteScheduler"),  # as where the configuration names none
        ("LMSDiscreteScheduler", "EulerDiscreteScheduler"),
        ("SASolverScheduler", "EulerDiscreteScheduler"),
        ("SomebodysOwnScheduler", "EulerDiscreteScheduler"),
        ("LCMScheduler", "LCMScheduler"),
        ("TCDScheduler", "TCDScheduler"),
        ("EulerAncestralDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
    ],
)
def test_a_scheduler_that_is_not_had_keeps_its_noise(
    sd1_folder: Path, tmp_path: Path, kind: str | None, taken: str
) -> None:
    changes = {"_class_name": kind, "beta_end": 0.013, "beta_schedule": "linear"}
    base = with_scheduler(sd1_folder, tmp_path / "model", **changes)
    scheduler = base.scheduler()
    assert type(scheduler).__name__ == taken
    betas = torch.linspace(0.00085, 0.013, 1000)
    torch.testing.assert_close(base.alphas_cumprod, (1 - betas).cumprod(0))
    torch.testing.assert_close(scheduler.alphas_cumprod, base.alphas_cumprod)
    assert compose.render(base, Shot("a robot", steps=2)).size == (64, 64)


def test_lcms_own_steps_are_those_of_diffusers(sd1_folder: Path, tmp_path: Path) -> None:
    base = with_scheduler(sd1_folder, tmp_path / "model", _class_name="LCMScheduler")
    ours, theirs = base.scheduler(), LCMScheduler.from_config(base.scheduler_config)
    assert isinstance(ours, LCMScheduler) and isinstance(theirs, LCMScheduler)
    ours.set_timesteps(4)
    theirs.set_timesteps(4)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_other_kinds_of_noise_are_refused(sd1_folder: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadInput, match=f"has a scheduler {kind}, which is not of the SD family"):
        with_scheduler(sd1_folder, tmp_path / "model", _class_name=kind)


def test_edm_is_refused_by_its_keys() -> None:
    shapes = {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}
    with pytest.raises(BadInput, match=r"has the noise levels of EDM \(CosXL, Playground 2\.5\)"):
        detect_family(shapes | {"edm_vpred.sigma_max": ()}, "model")


def test_kohyas_note_of_zero_terminal_snr_is_read(sdxl_folder: Path) -> None:
    note = {"ss_zero_terminal_snr": "True", "modelspec.prediction_type": "v"}
    config = _scheduler_config(sdxl_folder, "sdxl", {}, note, "auto")
    assert config["rescale_betas_zero_snr"] is True
    assert config["prediction_type"] == "v_prediction"
    note["ss_zero_terminal_snr"] = "False"
    plain = _scheduler_config(sdxl_folder, "sdxl", {}, note, "auto")
    assert not plain.get("rescale_betas_zero_snr")
