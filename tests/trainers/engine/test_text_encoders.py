"""Text encoders trained too: against peft in the pipelines of diffusers, and against ourselves."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import compose
import studio
from studio import Base
from studio.adapters.formats.convert import to_kohya
from studio.adapters.tensor_file import write_tensors
from studio.bases.load import load_base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from tests.tiny import tiny_sdxl
from tests.trainers.learning import NEAR, TRIGGER, assert_lent, assert_resumes, learned
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, SaRA
from trainers.engine.data.batches import batches
from trainers.engine.data.randomness import generator_for
from trainers.engine.kind import count, new_deltas

CAPTIONS = ["a photo of a sks robot in red", TRIGGER, TRIGGER]  # of the folder's pictures
TEXT = {"text_encoders": True, "text_lr": 5e-4}
# Where a gradient is nothing but rounding, Adam still goes a whole lr: the UNet's is kept low.
RATES = {"text_encoders": True, "lr": 2e-5, "text_lr": 5e-4}
Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


@pytest.fixture(params=["sdxl", "sd1"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def base(request: pytest.FixtureRequest, family: str, tmp_path: Path) -> Base:
    """The tiny base; for kohya's numbers of blocks, with as many layers in each as the real one."""
    if family == "sdxl" and request.node.callspec.params.get("kohya"):
        return load_base(tiny_sdxl(tmp_path / "two-layers", layers=2), device="cpu")
    return request.getfixturevalue(family)


@pytest.fixture
def base64(request: pytest.FixtureRequest, family: str) -> Base:
    return request.getfixturevalue({"sdxl": "sdxl64", "sd1": "sd1_64"}[family])


@pytest.fixture
def pipeline(base: Base, family: str) -> Pipeline:
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    opened = kind.from_pretrained(base.source, local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    return opened


def test_steps_equal_peft_in_the_pipeline_of_diffusers(
    base64: Base, pipeline: Pipeline, folder: Path, tmp_path: Path
) -> None:
    """Losses and weights, gradients flowing through the pipeline's own encoding."""
    base = base64
    pipeline.to(torch.float64)
    dropout = 0.3 if base.family == "sdxl" else 0.0
    kind = LoRA(rank=4, alpha=2, targets="all" if base.family == "sdxl" else "attention")
    options = {"steps": 4, "seed": 3, "caption_dropout": dropout, "schedule": "constant", **RATES}
    _, ours = learned(kind, base, folder, tmp_path / "run", **options)
    start = new_deltas(kind, base, generator=generator_for(3, "start"), text_encoders=True)
    loop = PeftLoop(pipeline, folder, kind, start, base=base)
    theirs = [loop.step(*drawn) for drawn in draws(seed=3, steps=4, batch=2, dropout=dropout)]
    assert ours == pytest.approx(theirs, abs=1e-5)
    trained = load_file(tmp_path / "run" / "adapter.safetensors")
    expected = loop.weights()
    assert any(name.startswith("text_encoder.") for name in trained)
    assert max(tensor.abs().max() for n, tensor in trained.items() if "lora_B" in n) > 1e-3
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected.pop(name), **NEAR)
    # What peft puts on SDXL's first encoder behind the layer that is used learns nothing.
    assert not any(tensor.any() for name, tensor in expected.items() if "lora_B" in name)
    assert all(".layers.1." in name for name in expected)


KINDS = [LoRA(rank=2, dropout=0.3), DiffuseKronA(a1=4), SaRA(threshold=0.02)]


@pytest.mark.parametrize("kind", KINDS)
def test_text_encoders_learn_resume_exactly_and_come_back(
    sdxl: Base, folder: Path, tmp_path: Path, kind: Kind
) -> None:
    """SaRA chooses its entries anew after the second of three steps."""
    options = {"steps": 3, "caption_dropout": 0.3, **TEXT}
    with assert_lent(sdxl):
        assert_resumes(kind, sdxl, folder, tmp_path, after=2, **options)
    adapter = studio.load_adapter(tmp_path / "whole" / "adapter.safetensors", base=sdxl)
    text = {name: delta for name, delta in adapter.deltas.items() if not name.startswith("unet.")}
    layers = sdxl.layers()
    assert len(text) >= 4 * 3
    assert all(delta.dense(layers[name].weight).any() for name, delta in text.items())  # pyright: ignore


def test_pictures_are_kept_encoded_and_captions_are_not(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []
    encode, posterior, pictures = sdxl.encode_text, sdxl.posterior, []

    def encode_watched(texts: list[str], **named: Any) -> Any:
        said.append(texts)
        return encode(texts, **named)

    monkeypatch.setattr(sdxl, "encode_text", encode_watched)
    monkeypatch.setattr(sdxl, "posterior", lambda p: (pictures.append(p), posterior(p))[1])
    learned(LoRA(rank=2), sdxl, folder, tmp_path / "run", steps=2, **TEXT)
    assert len(said) == 2
    assert len(pictures) == 3
    assert all(len(set(texts)) == len(texts) for texts in said)


def test_the_rates_follow_one_course(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    """Plain descent: at twice the rate the first step goes twice as far."""
    moved = []
    for rate in (1e-4, 2e-4):
        options = {**TEXT, "text_lr": rate, "steps": 1, "warmup": 0, "weight_decay": 0.0}
        adapter, _ = learned(LoRA(rank=2), sdxl, folder, tmp_path / str(rate), **options)
        moved.append(
            {name: delta.tensors()["lora_B.weight"] for name, delta in adapter.deltas.items()}
        )
    for name, tensor in moved[0].items():
        factor = 1 if name.startswith("unet.") else 2
        torch.testing.assert_close(moved[1][name], factor * tensor)


def test_the_layer_that_sdxl_does_not_use_is_left_out() -> None:
    """240 low-rank layers of 32: 12 x 4 less 4, and 32 x 4, of peft's DreamBooth targets."""
    sdxl = real_config("sdxl")
    whole = new_deltas(LoRA(rank=1), sdxl, generator=torch.Generator(), text_encoders=True)
    layers = [name for name in whole if not name.startswith("unet.")]
    assert len(layers) == 4 * 11 + 4 * 32
    assert not any(name.startswith("text_encoder.text_model.encoder.layers.11.") for name in layers)
    assert count(LoRA(rank=1), sdxl, text_encoders=True).layers == len(whole)
    sd15 = count(LoRA(rank=1, targets="all"), real_config("sd15"), text_encoders=True)
    assert sd15.layers - count(LoRA(rank=1, targets="all"), real_config("sd15")).layers == 6 * 12


def test_what_cannot_be_is_refused(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="blora changes nothing in the text encoders"):
        learned(BLoRA(rank=2), sdxl, folder, tmp_path / "run", **TEXT)
    with pytest.raises(BadInput, match="text_lr must be a number above 0"):
        learned(LoRA(rank=2), sdxl, folder, tmp_path / "run", text_encoders=True, text_lr=0.0)


@pytest.mark.parametrize(("family", "kohya"), [("sdxl", False), ("sdxl", True), ("sd1", True)])
def test_the_picture_is_that_of_diffusers_with_the_same_file(
    base: Base, pipeline: Pipeline, folder: Path, tmp_path: Path, kohya: bool
) -> None:
    """Ours as it is written, and as kohya names it; read back from there it draws the same."""
    options = {**TEXT, "steps": 2, "text_lr": 2e-2, "lr": 5e-3}
    kind = LoRA(rank=2, alpha=4, targets="attention" if kohya else "all")
    adapter, _ = learned(kind, base, folder, tmp_path / "run", **options)
    file = tmp_path / "run" / "adapter.safetensors"
    if kohya:
        file = tmp_path / "kohya.safetensors"
        tensors, metadata = to_kohya(adapter)
        expected = {"lora_te1", "lora_te2"} if base.family == "sdxl" else {"lora_te"}
        assert {"_".join(key.split("_")[:2]) for key in tensors} == expected | {"lora_unet"}
        write_tensors(file, tensors, metadata)
    shot = studio.Shot(TRIGGER, seed=4, steps=2, guidance=4.0, adapters=((file, 1.0),))
    ours = compose.render(base, shot, output="latents")
    only_unet = {n: d for n, d in adapter.deltas.items() if n.startswith("unet.")}
    part = studio.Adapter(deltas=only_unet, kind="lora", family=base.family)
    without = compose.render(
        base, studio.Shot(**{**vars(shot), "adapters": ((part, 1.0),)}), output="latents"
    )
    pipeline.load_lora_weights(str(file))
    theirs = pipeline(
        TRIGGER,
        num_inference_steps=2,
        guidance_scale=4.0,
        width=64,
        height=64,
        latents=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4)),
        output_type="latent",
        return_dict=False,
    )[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - without).abs().max() > 1e-2  # what the text encoders learned does show


def draws(
    *, seed: int, steps: int, batch: int, dropout: float
) -> Iterator[tuple[list[int], list[bool], list[int], list[Tensor], list[Tensor]]]:
    """Of every step: pictures, whether without caption, timesteps, posteriors, noise."""
    for step, numbers in enumerate(islice(batches([0, 0, 0], batch=batch, seed=seed), steps)):
        bits = sha256(f"{seed}/step/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(bits[:8], "little") // 2)
        dropped, timesteps, posterior, noise = [], [], [], []
        for _ in numbers:
            if dropout:
                dropped.append(bool(torch.rand((), generator=generator) < dropout))
            timesteps.append(int(torch.randint(1000, (), generator=generator)))
            posterior.append(torch.randn(4, 8, 8, generator=generator))
            noise.append(torch.randn(4, 8, 8, generator=generator))
        yield list(numbers), dropped or [False] * batch, timesteps, posterior, noise


class PeftLoop:
    """The loop of diffusers' example scripts, on peft's layers, from the same first weights."""

    def __init__(
        self,
        pipeline: Pipeline,
        folder: Path,
        kind: LoRA,
        start: Mapping[str, nn.Module],
        *,
        base: Base,
        only_unet: bool = False,
    ) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.zero_negative = base.zero_negative
        self.parts: dict[str, nn.Module] = {"unet": pipeline.unet}
        if not only_unet:
            self.parts["text_encoder"] = pipeline.text_encoder
        if base.family == "sdxl" and not only_unet:
            self.parts["text_encoder_2"] = pipeline.text_encoder_2
        for component, part in self.parts.items():
            part.requires_grad_(False)
            own = {
                n.partition(".")[2]: d for n, d in start.items() if n.startswith(f"{component}.")
            }
            targets = sorted({name.removeprefix("text_model.") for name in own})
            if component == "text_encoder":
                targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
                targets += ["fc1", "fc2"] * (kind.targets == "all")
            part.add_adapter(
                LoraConfig(r=kind.rank, lora_alpha=kind.alpha or kind.rank, target_modules=targets)
            )
            for name, delta in own.items():
                flat = not hasattr(part, "text_model")  # as transformers has CLIP nowadays
                layer = part.get_submodule(name.removeprefix("text_model.") if flat else name)
                layer.lora_A["default"].weight.data.copy_(delta.down)
        self.noising = DDPMScheduler.from_config(pipeline.scheduler.config)
        unet, *text = (
            [weight for weight in part.parameters() if weight.requires_grad]
            for part in self.parts.values()
        )
        self.trained = [*unet, *(weight for part in text for weight in part)]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": unet, "lr": RATES["lr"]},
                {"params": self.trained[len(unet) :], "lr": RATES["text_lr"]},
            ],
            weight_decay=0.01,
        )

    def step(
        self,
        numbers: list[int],
        dropped: list[bool],
        timesteps: list[int],
        posterior: list[Tensor],
        noise: list[Tensor],
    ) -> float:
        latents = torch.stack(
            [self.latents(number, drawn) for number, drawn in zip(numbers, posterior, strict=True)]
        )
        eps, when = torch.stack(noise), torch.tensor(timesteps)
        hidden, added = self.text(numbers, dropped)
        predicted = self.pipeline.unet(
            self.noising.add_noise(latents, eps, when),
            when,
            encoder_hidden_states=hidden,
            added_cond_kwargs=added,
        ).sample
        alphas = self.noising.alphas_cumprod[when]
        snr = alphas / (1 - alphas)
        error = F.mse_loss(predicted, eps, reduction="none").mean(dim=(1, 2, 3))
        loss = (error * snr.clamp(max=5.0) / snr).mean()
        self.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def latents(self, number: int, drawn: Tensor) -> Tensor:
        picture = torch.from_numpy(np.array(Image.open(self.folder / f"{number}.png")))
        vae = self.pipeline.vae
        with torch.no_grad():
            pixels = picture.to(vae.dtype).permute(2, 0, 1)[None] / 127.5 - 1
            posterior = vae.encode(pixels).latent_dist
        return ((posterior.mean + posterior.std * drawn) * vae.config.scaling_factor)[0]

    def text(
        self, numbers: list[int], dropped: list[bool]
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        rows, pools = [], []
        for number, without in zip(numbers, dropped, strict=True):
            said = "" if without else CAPTIONS[number]
            encoded = self.pipeline.encode_prompt(
                said, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            zero = 0.0 if without and self.zero_negative else 1.0
            rows.append(encoded[0] * zero)
            pools.append(encoded[2] * zero if len(encoded) == 4 else None)
        if pools[0] is None:
            return torch.cat(rows), None
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(numbers))
        return torch.cat(rows), {"text_embeds": torch.cat(pools), "time_ids": ids}

    def weights(self) -> dict[str, Tensor]:
        """Named as in Studio's file."""
        found = {}
        for component, part in self.parts.items():
            flat = component != "unet" and not hasattr(part, "text_model")
            inner = "text_model." if flat else ""
            state = get_peft_model_state_dict(part)
            found |= {f"{component}.{inner}{name}": tensor for name, tensor in state.items()}
        return found
