"""Alignments: rewards by their formulas, gradients through the sampler, the limit, the files."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

import compose
import studio
import trainers
from studio.adapters.delta import LowRank
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.training import FROM_PROMPTS, TrainingRequest, read_request
from studio.workspace import open_workspace
from tests.tiny import tokenizer
from tests.trainers.learning import assert_lent
from trainers import Brightness, Clip, FileSize, Finished, Palette, Step, Tile
from trainers.engine.data.randomness import generator_for
from trainers.engine.loop import Trainer
from trainers.rewards.clip import HEAD
from ui.shared.queue_requests import queue_training

SHORT = {"steps": 6, "batch": 2, "lr": 0.02, "save_every": 0}
QUICK: dict[str, Any] = {
    "sampling_steps": 3,
    "last": 1,
    "pictures": 2,
    "guidance": 2.0,
    "rank": 4,
    "limit": 0.2,
}
DARK = Brightness(target=0.0, **QUICK)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat")
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with its tokenizer and a head."""
    folder = tmp_path_factory.mktemp("clip")
    words = tokenizer(pad="!")
    words.save_pretrained(folder)
    ids = {"eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id}
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = CLIPTextConfig(vocab_size=len(words), num_attention_heads=2, **ids, **small)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, num_attention_heads=2, **small)
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    head = {"weight": torch.randn(1, 8), "bias": torch.zeros(1)}
    save_file(head, folder / HEAD)
    return folder


def jpeg_bytes(pixels: Tensor) -> int:
    grey = (255 * pixels.mean(0)).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=50)
    return len(file.getvalue())


def test_rewards_say_what_they_are_named_for() -> None:
    flat, noise = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64)
    wave = (torch.arange(64) / 64 * 2 * torch.pi).sin().view(1, 1, 1, 64).expand(1, 3, 64, 64)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    assert float(Tile().score(flat, [""])) == 0
    assert float(Tile().score(ramp, [""])) == pytest.approx(-0.5)
    assert Tile().score(wave / 2 + 0.5, [""]) > Tile().score(ramp, [""])
    assert float(Brightness(target=0.25).score(flat, [""])) == pytest.approx(-0.25)
    grey = Palette(colours=("#808080", "red"))
    assert float(grey.score(flat, [""])) == pytest.approx(0, abs=5e-3)
    assert float(Palette(colours=("black",)).score(flat, [""])) == pytest.approx(-(0.75**0.5))
    sizes = FileSize(larger=True)
    soft = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    scores = [float(sizes.score(one, [""])) for one in (flat, wave / 2 + 0.5, soft, noise)]
    files = [jpeg_bytes(one[0]) for one in (flat, wave / 2 + 0.5, soft, noise)]
    assert scores == sorted(scores) and files == sorted(files)
    assert float(FileSize().score(noise, [""])) == -scores[-1]


@pytest.mark.parametrize("name", sorted(set(trainers.reward_kinds()) - {"clip"}))
def test_gradients_reach_the_pixels(name: str) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reward: Any = trainers.reward_kinds()[name]()
    reward.check_files()
    score = reward.score(pixels, ["a cat", "a dog"])
    assert score.shape == (2,)
    score.sum().backward()
    assert pixels.grad is not None and pixels.grad.any()
    with torch.no_grad():
        better = (pixels + 1e-3 * pixels.grad.sign()).clamp(0, 1)
        assert (reward.score(better, ["a cat", "a dog"]) > score).all()


def test_clip_is_transformers_own(clip: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32).requires_grad_()
    model: Any = CLIPModel.from_pretrained(clip)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    words = tokenizer(pad="!")(["a cat", "a dog"], padding="max_length", return_tensors="pt")
    out = model(input_ids=words.input_ids, pixel_values=(pixels - mean) / std)
    expected = (out.image_embeds * out.text_embeds).sum(-1)
    own = Clip(folder=clip)
    own.check_files()
    score = own.score(pixels, ["a cat", "a dog"])
    torch.testing.assert_close(score, expected, atol=1e-3, rtol=1e-3)
    score.sum().backward()
    assert pixels.grad is not None and pixels.grad.any()
    beauty = Clip(folder=clip, aesthetic=True)
    beauty.check_files()
    assert beauty.score(pixels, ["", ""]).shape == (2,)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("beauty", {}, "there is no kind 'beauty'"),
        ("palette", {"colours": ["nothing"]}, "colours: unknown color"),
        ("judge", {"answer": "fresco"}, "the judge knows no style 'fresco'"),
        ("brightness", {"target": float("nan")}, "target must be a number from 0 to 1"),
        ("contrast", {"target": 0.7}, "target must be a number from 0 to 0.5"),
        ("tile", {"last": 5, "sampling_steps": 4}, "last must be at most sampling_steps"),
        ("clip", {}, "folder is missing"),
        ("clip", {"folder": "/nowhere"}, "/nowhere has no config.json"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_base_is_opened(
    name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        trainers.check(TrainingRequest(name, options=options))


def test_folders_that_hold_another_model_are_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match="is no CLIP model"):
        Clip(folder=tmp_path).check_files()
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({"weight": torch.ones(1, 3), "bias": torch.zeros(1)}, tmp_path / HEAD)
    with pytest.raises(BadInput, match="no linear head of 8 numbers"):
        Clip(folder=tmp_path, aesthetic=True).check_files()
    (tmp_path / HEAD).unlink()
    with pytest.raises(BadInput, match="no weight and bias"):
        Clip(folder=tmp_path, aesthetic=True).check_files()
    save_file({"logit_scale": torch.ones(())}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="weights of one are missing"):
        Clip(folder=tmp_path).check_files()


def test_the_kinds_are_those_that_requests_know() -> None:
    names = [*trainers.distillation_kinds(), *trainers.reward_kinds()]
    assert tuple(names) == FROM_PROMPTS


def test_gradients_are_those_of_plain_autograd(
    sd1_64: Base, sd1_folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against diffusers' sampler, which rounds steps that do not divide 1000, beyond the limit."""
    kind = Brightness(target=0.3, **{**QUICK, "sampling_steps": 4, "last": 2, "limit": 1e-3})
    found: list[dict[str, tuple[Tensor, Tensor]]] = []
    optimize = Trainer._optimize

    def noted(self: Trainer, rate: float) -> None:
        found.append(
            {
                f"{name}.{part}": (p.detach().clone(), p.grad.clone())
                for name, delta in self.training.deltas.items()
                for part, p in delta.named_parameters()
                if p.grad is not None
            }
        )
        optimize(self, rate)

    monkeypatch.setattr(Trainer, "_optimize", noted)
    options = {**SHORT, "steps": 2, "clip": 0.0}
    *_, step, _ = trainers.align(kind, sd1_64, prompts=prompts, run=tmp_path / "run", **options)
    assert isinstance(step, Step)
    loss, gradients = plain_alignment(sd1_folder, kind, {n: w for n, (w, _) in found[1].items()})
    assert step.loss == pytest.approx(loss, rel=1e-5)
    assert step.measured["distance"] > kind.limit
    assert gradients.keys() == found[1].keys()
    for name, (_, gradient) in found[1].items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-7, rtol=1e-4)
    assert sum(one.abs().sum() for one in gradients.values()) > 0


def plain_alignment(
    folder: Path, kind: Brightness, weights: dict[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """The loss of two pictures of a cat and its gradients, by diffusers and autograd alone."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder).to(torch.float64)
    scheduler: Any = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(kind.sampling_steps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    prompted, without = pipeline.encode_prompt("a cat", "cpu", 2, True)
    for module in (pipeline.unet, pipeline.vae):
        module.requires_grad_(False)
    factors = {name: one.requires_grad_() for name, one in weights.items()}
    own = dict(pipeline.unet.named_parameters())
    changed = {}
    for layer in {name.rpartition(".")[0] for name in factors}:
        change = factors[f"{layer}.up"].flatten(1) @ factors[f"{layer}.down"].flatten(1)
        name = f"{layer.removeprefix('unet.')}.weight"
        changed[name] = own[name] + change.view(own[name].shape)

    def draw(parameters: dict[str, Tensor], learning: int) -> Tensor:
        noise = (torch.randn(4, 8, 8, generator=generator_for(0, "noise", n)) for n in (0, 1))
        latents = torch.stack(list(noise))
        for at, timestep in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(at >= kind.sampling_steps - learning):
                eps, plain = (
                    functional_call(pipeline.unet, parameters, (latents, timestep, text)).sample
                    for text in (prompted, without)
                )
                guided = plain + kind.guidance * (eps - plain)
                latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return latents

    drawn, before = draw(changed, kind.last), draw({}, 0)
    pictures = pipeline.vae.decode(drawn / pipeline.vae.config.scaling_factor).sample
    red, green, blue = (pictures / 2 + 0.5).clamp(0, 1).unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).mean(dim=(1, 2))
    far = (drawn - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    loss = ((grey - kind.target).abs() + 10 * (far - kind.limit).clamp(min=0)).mean()
    found = torch.autograd.grad(loss, list(factors.values()))
    return loss.item(), dict(zip(factors, found, strict=True))


def test_the_reward_rises_within_the_limit(sd1: Base, prompts: Path, tmp_path: Path) -> None:
    """And another can begin where the base wears this one."""
    run = tmp_path / "run"
    with assert_lent(sd1):
        events = list(trainers.align(DARK, sd1, prompts=prompts, run=run, **SHORT))
    taken = [event.measured for event in events if isinstance(event, Step)]
    assert taken[0]["distance"] == 0
    assert taken[-1]["reward"] > taken[0]["reward"]
    assert max(one["distance"] for one in taken) < 0.4
    adapter = studio.load_adapter(run / "adapter.safetensors", base=sd1)
    shot = studio.Shot("a cat", steps=2, adapters=((adapter, 1.0),))
    assert torch.isfinite(compose.render(sd1, shot, output="latents")).all()
    worn = [(run / "adapter.safetensors", 1.0)]
    other = trainers.align(
        DARK, sd1, prompts=prompts, adapters=worn, run=tmp_path / "other", **SHORT
    )
    first = next(event.measured for event in other if isinstance(event, Step))
    other.close()
    assert first["reward"] > taken[0]["reward"]
    assert first["distance"] == 0


def test_a_resumed_run_makes_the_same_file(sd1: Base, prompts: Path, tmp_path: Path) -> None:
    """Stopped in the middle of a round that is rounded up, with accumulation and an average."""
    prompts.write_text("a cat\na dog\na red star")
    kind = Tile(**{**QUICK, "pictures": 5, "sampling_steps": 2, "dropout": 0.1})
    options = {**SHORT, "steps": 5, "accumulation": 2, "ema": 0.5}
    list(trainers.align(kind, sd1, prompts=prompts, run=tmp_path / "whole", **options))
    stopped = trainers.align(kind, sd1, prompts=prompts, run=tmp_path / "parts", **options)
    for event in stopped:
        if isinstance(event, Step) and event.step == 3:
            break
    stopped.close()
    list(trainers.resume(tmp_path / "parts", sd1))
    for name in ("adapter.safetensors", "recipe.toml"):
        whole, parts = ((tmp_path / run / name).read_bytes() for run in ("whole", "parts"))
        assert whole == parts


def test_only_the_last_steps_learn_and_the_base_draws_once(
    sd1: Base, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps a picture has."""
    learning: list[bool] = []
    predict = Base.predict

    def watched(self: Base, *args: Any, **named: Any) -> Tensor:
        learning.append(torch.is_grad_enabled())
        return predict(self, *args, **named)

    monkeypatch.setattr(Base, "predict", watched)
    kind = Tile(pictures=2, sampling_steps=4, last=2, rank=2)
    list(trainers.align(kind, sd1, prompts=prompts, run=tmp_path / "run", **{**SHORT, "steps": 2}))
    drawn = [False, False, True, True]
    assert learning == [False] * 4 + 2 * drawn


def test_its_file_is_a_plain_lora_that_says_nothing_of_this_computer(
    sd1: Base, sd1_folder: Path, prompts: Path, clip: Path, tmp_path: Path
) -> None:
    kind = Clip(folder=clip, words="a dog", **QUICK)
    options = {**SHORT, "steps": 1}
    *_, finished = trainers.align(kind, sd1, prompts=prompts, run=tmp_path / "run", **options)
    assert isinstance(finished, Finished)
    assert str(clip.parent) not in finished.path.read_bytes().decode("latin-1")
    assert read_request(tmp_path / "run").options["folder"] == str(clip)
    pipeline = StableDiffusionPipeline.from_pretrained(sd1_folder)
    pipeline.load_lora_weights(str(finished.path))
    adapter = studio.load_adapter(finished.path, base=sd1)
    assert (adapter.kind, adapter.triggers) == ("clip", ())
    (layer, delta), *_ = adapter.deltas.items()
    assert isinstance(delta, LowRank)
    theirs = pipeline.unet.get_submodule(layer.removeprefix("unet."))
    torch.testing.assert_close(theirs.lora_A["default_0"].weight, delta.down, check_dtype=False)


def test_prompts_that_are_not_drawn_are_told_of(sd1: Base, prompts: Path, tmp_path: Path) -> None:
    prompts.write_text("a cat\na dog\na red star")
    run = trainers.align(Tile(**QUICK), sd1, prompts=prompts, run=tmp_path / "run")
    started: Any = next(run)
    run.close()
    assert "Only 2 of 3 prompts are drawn: raise pictures." in started.remarks


def test_a_worker_finds_the_folder_that_a_job_names(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip.parent)
    job = queue_training(
        open_workspace(tmp_path), TrainingRequest("clip", options={"folder": clip.name})
    )
    asked: Any = job.arguments
    assert asked["options"]["folder"] == str(clip)


def test_decoding_is_the_bases_own(sd1: Base) -> None:
    latents = torch.randn(1, 4, 8, 8, requires_grad=True)
    decoded = sd1.decode_with_gradients(latents)
    assert decoded.requires_grad
    assert torch.equal(decoded.detach(), sd1.decode(latents.detach()))
