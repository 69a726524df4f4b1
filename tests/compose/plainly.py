"""The methods as their authors run them: diffusers' pipeline, peft's layers, adapters set by name.

What rendering is compared with, in its latents (test_parity.py) and in its time
(tests/benchmarks/composition.py). A pass is a pass of `pipeline.unet` after `set_adapters`; K-LoRA
multiplies out both changes and sorts their entries in every layer at every call. Where Studio
deviates on purpose (each file of compose/ says how), this does too: every mix encodes the prompt
itself, and a step is a denoising step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

__all__ = ["Plainly"]

# Names of adapters with their strengths.
LayerChanges = Mapping[str, float]


@dataclass
class Plainly:
    """A pipeline with adapters loaded under names, and what to draw with it.

    read_under: what the prompt is encoded with, once for all passes as the authors do; if not
    given, every mix encodes it.
    """

    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline
    adapters: LayerChanges
    prompt: str
    negative: str = ""
    steps: int = 4
    guidance: float = 5.0
    seed: int = 0
    size: int = 64
    read_under: LayerChanges | None = None
    texts: dict[str, list[Tensor]] = field(default_factory=dict)
    deep: Tensor = field(default_factory=lambda: torch.empty(0))

    def merge(self) -> Tensor:
        """All at once."""
        return self.run(lambda step, eps: eps(self.adapters))

    def switch(self, interval: int) -> Tensor:
        """One at a time."""
        names = list(self.adapters)

        def at_step(step: int, eps: Callable[..., Tensor]) -> Tensor:
            name = names[step // interval % len(names)]
            return eps({name: self.adapters[name]})

        return self.run(at_step)

    def composite(self, weights: Sequence[Sequence[float]] | None = None) -> Tensor:
        """The mean of a pass for each; weights: of each at every step, as CMLoRA gives them."""

        def at_step(step: int, eps: Callable[..., Tensor]) -> Tensor:
            passes = [eps({name: weight}) for name, weight in self.adapters.items()]
            counts = [1.0] * len(passes) if weights is None else weights[step]
            return sum(w * one for w, one in zip(counts, passes, strict=True)) / len(passes)

        return self.run(at_step)

    def cmlora(self, weights: Sequence[Sequence[float]], fresh: Sequence[Sequence[int]]) -> Tensor:
        """The same, deep features taken from the last time an adapter was fresh, by its place.

        Nothing is saved by it: a full pass is made, and what it found in the deep put away.
        """
        kept: dict[str, Tensor] = {}

        def at_step(step: int, eps: Callable[..., Tensor]) -> Tensor:
            total = torch.zeros(())
            for at, (name, strength) in enumerate(self.adapters.items()):
                one = eps({name: strength}, deep=None if at in fresh[step] else kept[name])
                kept[name] = self.deep
                total = total + weights[step][at] * one
            return total / len(self.adapters)

        return self.run(at_step)

    def klora(self, *, alpha: float = 1.5, beta: float = 0.5) -> Tensor:
        """In every layer the first adapter or the second, found at each of its calls."""
        pipe = self.pipeline
        progress = [0.0]
        encoders = [pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
        texts = [layer for one in encoders if one is not None for layer in _lora_layers(one)]

        def at_step(step: int, eps: Callable[..., Tensor]) -> Tensor:
            progress[0] = alpha * step / self.steps + beta
            return eps(self.adapters)

        pipe.set_adapters(list(self.adapters), list(self.adapters.values()))
        unet = list(_lora_layers(pipe.unet))
        with self._choosing(unet, lambda: progress[0]), self._choosing(texts, lambda: 1.0):
            return self.run(at_step)

    def run(self, at_step: Callable[[int, Callable[..., Tensor]], Tensor]) -> Tensor:
        """Latents [1, 4, h, w]; at_step: predicts at a step, counted from 0, with eps(adapters)."""
        pipe: Any = self.pipeline
        self.texts.clear()
        pipe.scheduler.set_timesteps(self.steps)
        side = self.size // pipe.vae_scale_factor
        start = torch.Generator().manual_seed(self.seed)
        latents = torch.randn(1, 4, side, side, generator=start) * pipe.scheduler.init_noise_sigma
        takes_noise = "generator" in signature(pipe.scheduler.step).parameters
        own_noise = {"generator": start} if takes_noise else {}
        for number, timestep in enumerate(pipe.scheduler.timesteps):
            scaled = pipe.scheduler.scale_model_input(latents, timestep)
            with torch.no_grad():
                noise = at_step(
                    number // pipe.scheduler.order, partial(self._eps, scaled, timestep)
                )
            stepped = pipe.scheduler.step(noise, timestep, latents, return_dict=False, **own_noise)
            latents = stepped[0]
        return latents

    def _eps(
        self, latents: Tensor, timestep: Tensor, worn: LayerChanges, *, deep: Tensor | None = None
    ) -> Tensor:
        """The guided prediction under these adapters; `deep`: see cmlora."""
        pipe: Any = self.pipeline
        if worn:
            pipe.enable_lora()
            pipe.set_adapters(list(worn), list(worn.values()))
        hidden, *pooled = self._text(worn)
        added = None
        if pooled:
            ids = torch.tensor([[self.size, self.size, 0, 0, self.size, self.size]])
            added = {"text_embeds": pooled[0], "time_ids": ids.repeat(len(hidden), 1)}

        def watch(block: nn.Module, given: tuple, named: dict[str, Tensor]) -> tuple[tuple, dict]:
            self.deep = named["hidden_states"] if deep is None else deep
            return given, {**named, "hidden_states": self.deep}

        hook = pipe.unet.up_blocks[-1].register_forward_pre_hook(watch, with_kwargs=True)
        try:
            rows = latents.repeat(len(hidden), 1, 1, 1)
            noise = pipe.unet(rows, timestep, hidden, added_cond_kwargs=added).sample
        finally:
            hook.remove()
        if len(hidden) == 1:
            return noise
        without, prompted = noise.chunk(2)
        return without + self.guidance * (prompted - without)

    def _text(self, worn: LayerChanges) -> list[Tensor]:
        """Of the negative prompt and the prompt: hidden, and SDXL's pooled; kept for the mix."""
        key = str(dict(worn if self.read_under is None else self.read_under))
        if key not in self.texts:
            guided = self.guidance > 1
            named = {
                "prompt": self.prompt,
                "negative_prompt": self.negative or None,
                "device": torch.device("cpu"),
                "num_images_per_prompt": 1,
                "do_classifier_free_guidance": guided,
            }
            with torch.no_grad():
                found = self.pipeline.encode_prompt(**named)
            pairs = zip(found[1::2], found[::2], strict=True)
            self.texts[key] = [torch.cat(pair) if guided else pair[1] for pair in pairs]
        return self.texts[key]

    @contextmanager
    def _choosing(self, layers: Sequence[LoraLayer], scale: Callable[[], float]) -> Iterator[None]:
        """K-LoRA's layers: the larger of the two changes by its largest entries, at every call."""
        if not layers:
            yield
            return
        one, two = self.adapters

        def change(layer: LoraLayer, name: str) -> Tensor:
            product = layer.lora_B[name].weight @ layer.lora_A[name].weight
            return layer.scaling[name] * product

        with torch.no_grad():
            sums = [[change(layer, name).abs().sum() for name in (one, two)] for layer in layers]
        ratios = torch.stack([content / style for content, style in sums])
        gamma = ratios[ratios < 3 * ratios.mean()].mean()

        def forward(layer: LoraLayer, x: Tensor) -> Tensor:
            content, style = change(layer, one), change(layer, two)
            k = layer.r[one] * layer.r[two]
            tops = [dense.abs().flatten().topk(k).values.sum() for dense in (content, style)]
            chosen = content if tops[0] / gamma > tops[1] * scale() else style
            return layer.base_layer(x) + F.linear(x, chosen)

        for layer in layers:
            vars(layer)["forward"] = partial(forward, layer)
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)["forward"]


def _lora_layers(model: nn.Module) -> Iterator[LoraLayer]:
    return (layer for layer in model.modules() if isinstance(layer, LoraLayer))
