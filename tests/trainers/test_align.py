"""Alignment: rewards by their formulas, gradients through the sampler, and the limit."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

import compose
import studio
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.errors import BadInput
from tests.tiny import tokenizer
from tests.trainers.learning import assert_lent
from trainers.align.alignment import Aligned, Aligning, align, decode
from trainers.align.options import Alignment
from trainers.align.rewards import REWARDS, Brightness, Clip, FileSize, Judge, Palette, Tile

QUICK = Alignment(
    steps=6, batch=2, sampling_steps=3, last=1, pictures=2, guidance=2.0, lr=0.02, rank=4, limit=0.2
)


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
    save_file(head, folder / "aesthetic.safetensors")
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


@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"clip"}))
def test_gradients_reach_the_pixels(name: str) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reward = REWARDS[name]()
    reward.check()
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
    own.check()
    score = own.score(pixels, ["a cat", "a dog"])
    torch.testing.assert_close(score, expected, atol=1e-3, rtol=1e-3)
    score.sum().backward()
    assert pixels.grad is not None and pixels.grad.any()
    beauty = Clip(folder=clip, aesthetic=True)
    beauty.check()
    assert beauty.score(pixels, ["", ""]).shape == (2,)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (Palette(colours=("nothing",)), "colours"),
        (Judge(answer="fresco"), "the judge knows no style 'fresco'"),
        (Clip(), "folder is missing"),
        (Clip(folder=Path("/nowhere")), "no config.json"),
    ],
)
def test_what_cannot_be_scored_is_refused(reward: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        reward.check()


def test_the_reward_rises_within_the_limit(sd1: Base, tmp_path: Path) -> None:
    """The file is a plain LoRA, and its picture moved as the training said."""
    out = tmp_path / "dark.safetensors"
    with assert_lent(sd1):
        *steps, done = align(Brightness(target=0.0), sd1, ["a cat"], out=out, options=QUICK)
    assert isinstance(done, Aligned) and done.path == out
    taken = [step for step in steps if isinstance(step, Aligning)]
    assert len(taken) == 6
    assert taken[0].distance == 0
    assert taken[-1].reward > taken[0].reward
    assert max(step.distance for step in taken) < 0.4
    adapter = load_adapter(out, base=sd1)
    assert adapter.kind == "lora" and adapter.recipe["reward"] == "brightness"
    shot = studio.Shot("a cat", steps=2, adapters=((adapter, 1.0),))
    assert torch.isfinite(compose.render(sd1, shot, output="latents")).all()
    with pytest.raises(BadInput, match="already exists"):
        next(align(Tile(), sd1, ["a cat"], out=out, options=QUICK))
    # Worn by the base, it is where another begins.
    other = align(
        Brightness(target=0.0),
        sd1,
        ["a cat"],
        out=tmp_path / "b.safetensors",
        adapters=[(adapter, 1.0)],
        options=QUICK,
    )
    first = next(other)
    assert isinstance(first, Aligning)
    assert first.reward > taken[0].reward and first.distance == 0
    other.close()
    assert not (tmp_path / "b.safetensors").exists()


def test_only_the_last_steps_learn(sd1: Base, tmp_path: Path, monkeypatch: Any) -> None:
    """However many steps a picture has, so many have gradients."""
    learning: list[bool] = []
    predict = Base.predict

    def watched(self: Base, *args: Any, **named: Any) -> Tensor:
        learning.append(torch.is_grad_enabled())
        return predict(self, *args, **named)

    monkeypatch.setattr(Base, "predict", watched)
    options = Alignment(steps=1, batch=1, pictures=1, sampling_steps=4, last=2, rank=2)
    list(align(Tile(), sd1, ["a cat"], out=tmp_path / "a.safetensors", options=options))
    assert learning == [False] * 4 + [False, False, True, True]


def test_decoding_is_the_bases_own(sd1: Base) -> None:
    latents = torch.randn(1, 4, 8, 8)
    assert torch.equal(decode(sd1, latents).detach(), sd1.decode(latents))
