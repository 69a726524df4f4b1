"""What rendering is compared with: diffusers, peft's layers, and weights that are added to."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from compose import Eps, Mix
from compose.engine.method import MethodAdapter
from compose.engine.sampler import Scheduler
from compose.engine.weights.adapter_change import Change
from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Delta, Dense, Kron, LowRank, Sparse
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.prompts import TextEmbedding
from studio.requests.shot import Shot
from tests.tiny import tiny_sdxl

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SDXL with one layer a block, as so many tests here run it; read only."""
    return tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl", layers=1)


@pytest.fixture(scope="session")
def folders(sdxl_folder: Path, sd1_folder: Path, sd2_folder: Path) -> dict[str, Path]:
    return {"sdxl": sdxl_folder, "sd1": sd1_folder, "sd2": sd2_folder}


@pytest.fixture(scope="session")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    """A base of each family, shared by all tests: none of them may leave a trace on it."""
    return {family: load_base(folder) for family, folder in folders.items()}


@pytest.fixture(scope="session")
def sdxl(bases: dict[str, Base]) -> Base:
    return bases["sdxl"]


@pytest.fixture(scope="session")
def sketch() -> Base:
    """The trained base, for what random weights do not show."""
    return load_base("sketch", device="cpu")


@pytest.fixture
def pipeline(folders: dict[str, Path]) -> Callable[[str], Pipeline]:
    """A fresh diffusers pipeline of a family."""
    return lambda family: open_pipeline(folders[family])


@pytest.fixture(scope="session")
def lora_files(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Two LoRAs for each family, as diffusers writes them, with changes to the text encoders."""
    here = tmp_path_factory.mktemp("loras")
    return {
        family: (
            write_lora(folder, here / f"{family}-one.safetensors", rank=4, alpha=4, seed=1),
            write_lora(folder, here / f"{family}-two.safetensors", rank=2, alpha=6, seed=2),
        )
        for family, folder in folders.items()
    }


def open_pipeline(folder: Path) -> Pipeline:
    xl = (folder / "text_encoder_2").is_dir()
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    opened = kind.from_pretrained(folder, local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    return opened


def write_lora(folder: Path, path: Path, *, rank: int, alpha: int, seed: int) -> Path:
    """A LoRA of random factors, so large that it plainly changes the picture."""
    made = open_pipeline(folder)
    parts = {"unet": made.unet, "text_encoder": made.text_encoder}
    if hasattr(made, "text_encoder_2"):
        parts["text_encoder_2"] = made.text_encoder_2
    generator = torch.Generator().manual_seed(seed)
    layers, settings = {}, {}
    for name, part in parts.items():
        targets = ATTENTION if name == "unet" else TEXT
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
        part.add_adapter(config)
        for key, weight in part.named_parameters():
            if "lora_" in key:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.08
        state = get_peft_model_state_dict(part)
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
        settings[f"{name}_lora_adapter_metadata"] = config.to_dict()
    made.save_lora_weights(path.parent, weight_name=path.name, **layers, **settings)
    return path


def noise(shot: Shot, side: tuple[int, int] = (8, 8)) -> Tensor:
    """The noise of a shot as the design has it: on the CPU, from the shot's own seed."""
    return torch.randn(1, 4, *side, generator=torch.Generator().manual_seed(shot.seed))


def bits(base: Base) -> dict[str, Tensor]:
    """A copy of every weight of the UNet and the text encoders."""
    modules = {"unet": base.unet, **{f"t{i}": m for i, m in enumerate(base.text_encoders)}}
    return {
        f"{name}.{key}": value.clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def same_bits(base: Base, before: dict[str, Tensor]) -> bool:
    after = bits(base)
    return after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in after)


@pytest.fixture(scope="session")
def forms(sdxl: Base, lora_files: dict[str, tuple[Path, Path]]) -> list[Adapter]:
    """An adapter of each form: LowRank (text encoders too), Kron, Sparse, and Dense.

    Each lacks layers that another one has. All but Sparse change biases too, and the last one
    the UNet's normalisations and some biases alone.
    """
    generator = torch.Generator().manual_seed(5)
    made: list[dict[str, Delta]] = [{}, {}, {}]
    for name, layer in sdxl.layers_and_norms().items():
        weight = cast(nn.Linear, layer).weight
        bias = getattr(layer, "bias", None)
        shift = None if bias is None else torch.randn(bias.shape, generator=generator) * 0.03
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            if name.startswith("unet."):
                made[2][name] = Dense(torch.randn(weight.shape, generator=generator) * 0.03, shift)
            continue
        few = torch.randperm(weight.numel(), generator=generator)[: weight.numel() // 8]
        if "attn" in name and not name.startswith("text"):
            kron = Kron.start(layer, 4, 4, generator=generator)
            kron.bias = None if shift is None else nn.Parameter(shift)
            nn.init.normal_(kron.b, std=0.3, generator=generator)
            made[0][name] = kron
        if "attn1" in name or "ff" in name:
            value = torch.randn(len(few), generator=generator) * 0.3
            made[1][name] = Sparse(few, value, tuple(weight.shape))
        if "attn2" in name or name == "unet.conv_out":
            made[2][name] = Dense(torch.randn(weight.shape, generator=generator) * 0.1, shift)
        elif shift is not None and name.startswith("unet.mid_block"):
            made[2][name] = BiasOnly(shift)
    others = [
        Adapter(deltas=deltas, kind=kind, family="sdxl", name=kind)
        for deltas, kind in zip(made, ("diffusekrona", "sara", "unknown"), strict=True)
    ]
    lora = load_adapter(lora_files["sdxl"][0])
    for name, delta in lora.deltas.items():
        if isinstance(delta, LowRank) and name.endswith("to_out.0"):
            delta.up_bias = nn.Parameter(torch.randn(delta.shape[0], generator=generator) * 0.03)
    return [lora, *others]


def small(layers: dict[str, tuple[int, ...]], *, seed: int, rank: int = 2) -> Adapter:
    """A random low-rank adapter of linear layers [out, in] of these names."""
    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, Delta] = {
        name: LowRank(
            torch.randn(rank, shape[1], generator=generator),
            torch.randn(shape[0], rank, generator=generator),
            alpha=rank,
        )
        for name, shape in layers.items()
    }
    return Adapter(deltas=deltas, kind="lora", family="sdxl", name=f"small {seed}")


def on_layers(pairs: Sequence[tuple[Adapter, float]]) -> list[Change]:
    """Adapters as methods get them, on bare layers instead of a base."""
    layers: dict[str, nn.Module] = {
        name: nn.Linear(*reversed(delta.shape), bias=False)
        for adapter, _ in pairs
        for name, delta in adapter.deltas.items()
    }
    return [Change(adapter, strength, layers, 0) for adapter, strength in pairs]


@dataclass(frozen=True)
class Asks:
    """A method that asks for the same mixes at every step and returns the mean."""

    mixes: tuple[Mix, ...]
    reused: Mix | None = None

    def check(self, adapters: Sequence[Adapter]) -> None:
        pass

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "Asks":
        return self

    def predict(self, step: int, eps: Eps) -> Tensor:
        reuse = self.reused if step else None
        return torch.stack([eps(mix, reuse) for mix in self.mixes]).mean(0)


# Adapters with their strengths and, where not all, the layers that they are for.
LayerChanges = Sequence[tuple[Adapter, float, Collection[str] | None]]


class ByHand:
    """The base denoised without the engine: changes are added to its weights and taken off again.

    deep: what the last evaluation gave the UNet's last up block.
    """

    def __init__(self, base: Base, shot: Shot) -> None:
        self.base, self.shot = base, shot
        self.latents, self.timestep, self.deep = noise(shot), torch.tensor(0), torch.empty(0)

    def run(self, at_step: Callable[[int], Tensor]) -> Tensor:
        """at_step: predicts for a step, counted from 0, with `eps`."""
        scheduler = cast(Scheduler, self.base.scheduler(self.shot.scheduler))
        scheduler.set_timesteps(self.shot.steps, device=self.base.device)
        latents = self.latents * scheduler.init_noise_sigma
        for step, timestep in enumerate(scheduler.timesteps):
            self.latents = scheduler.scale_model_input(latents, timestep)
            self.timestep = timestep
            with torch.no_grad():
                predicted = at_step(step)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return latents

    def eps(self, worn: LayerChanges, deep: Tensor | None = None) -> Tensor:
        """The guided prediction; deep: takes the place of what the last up block is given."""
        own = {key: value.clone() for key, value in bits(self.base).items()}

        def watch(block: nn.Module, given: tuple, named: dict[str, Tensor]) -> tuple[tuple, dict]:
            self.deep = named["hidden_states"] if deep is None else deep
            return given, {**named, "hidden_states": self.deep}

        hook = self.base.unet.up_blocks[-1].register_forward_pre_hook(watch, with_kwargs=True)
        try:
            self._wear(worn)
            text = self.base.encode_text([self.shot.negative, self.shot.prompt])
            if self.base.zero_negative and not self.shot.negative:
                text = TextEmbedding(text.hidden * _second(3), _none(text.pooled))
            size = (self.base.size, self.base.size)
            without, prompted = self.base.predict(
                self.latents.expand(2, -1, -1, -1),
                self.timestep,
                text,
                time_ids=self.base.time_ids(original=size, crop=(0, 0), target=size),
            ).chunk(2)
        finally:
            hook.remove()
            self._restore(own)
        return without + self.shot.guidance * (prompted - without)

    def _wear(self, worn: LayerChanges) -> None:
        layers = cast(dict[str, nn.Linear], self.base.layers_and_norms())
        plain = {name: layer.weight.clone() for name, layer in layers.items()}
        for adapter, strength, only in worn:
            for name in adapter.deltas.keys() & (adapter.deltas.keys() if only is None else only):
                delta = adapter.deltas[name]
                layers[name].weight += strength * delta.dense(plain[name])
                if delta.bias is not None:
                    layers[name].bias += strength * delta.bias

    def _restore(self, own: dict[str, Tensor]) -> None:
        modules = {"unet": self.base.unet}
        modules |= {f"t{i}": module for i, module in enumerate(self.base.text_encoders)}
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                value.copy_(own[f"{name}.{key}"])


def _second(ndim: int) -> Tensor:
    """Zero for the first row, one for the second."""
    return torch.tensor([0.0, 1.0]).view(2, *[1] * (ndim - 1))


def _none(pooled: Tensor | None) -> Tensor | None:
    return None if pooled is None else pooled * _second(2)
