"""The text encoders and UNets of the sketch bases, trained together.

`sketch` has SDXL's layout: two text encoders, of which the last layer but one is used, pooled text
and micro-conditioning. `sketch-sd1` has the layout of SD 1.x. Both predict the noise (epsilon) over
1,000 scaled-linear timesteps. The loss has min-SNR weights (Hang et al. 2023, gamma 5), and a tenth
of the captions are left empty.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (the annotations of diffusers and transformers are too narrow)

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from studio.sketch.art import SIDE
from studio.sketch.tokenizer import MAX_TOKENS
from studio.sketch.training import (
    EMA,
    Checkpoints,
    Optimizers,
    Report,
    fast_autocast,
    learning_rate,
)

EMPTY_CAPTIONS = 0.1
OTHER_SIZES = 0.4  # share of random time ids, so that the UNet accepts pictures of any size
MIN_SNR_GAMMA = 5.0
LATENT = SIDE // 4  # the VAE shrinks by 4
PLAIN = ("conv_in", "conv_out", "embedding", "time_emb", "add_emb")


def schedule() -> DDIMScheduler:
    """The noise schedule of both bases.

    It ends with more noise than Stable Diffusion's (beta 0.020 instead of 0.012), because small
    flat pictures show their average colour through more noise than photographs do.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.020,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


@dataclass(frozen=True)
class TrainingData:
    """Scaled latents, float16 [N, 4, 32, 32], and K tokenised captions of each, int16 [N, K, L].

    empty: the tokens of an empty caption, [L].
    """

    latents: torch.Tensor
    captions: torch.Tensor
    empty: torch.Tensor

    def to(self, device: str) -> "TrainingData":
        """The same data on a device."""
        return TrainingData(*(t.to(device) for t in (self.latents, self.captions, self.empty)))


class Denoiser(nn.Module):
    """A UNet and its text encoders, trained as one; predicts the noise from latents and tokens."""

    def __init__(self, unet: UNet2DConditionModel, text_encoders: list[nn.Module]):
        super().__init__()
        self.unet = unet
        self.text_encoders = nn.ModuleList(text_encoders)

    def forward(
        self, noisy: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        """Predict the noise [B, 4, 32, 32].

        noisy: latents [B, 4, 32, 32]. time: timesteps [B]. tokens: [B, L]. sizes: SDXL's time ids
        [B, 6].
        """
        encoded = [encoder(tokens, output_hidden_states=True) for encoder in self.text_encoders]
        if len(encoded) == 1:
            return self.unet(noisy, time, encoded[0].last_hidden_state).sample
        hidden = torch.cat([output.hidden_states[-2] for output in encoded], dim=-1)
        added = {"text_embeds": encoded[-1].text_embeds, "time_ids": sizes}
        return self.unet(noisy, time, hidden, added_cond_kwargs=added).sample


def _text_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def sdxl_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """An untrained model in SDXL's layout; its UNet has 14 million parameters."""
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 192),
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=(3, 3, 6),
        cross_attention_dim=256,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + 128,
    )
    encoders = [
        CLIPTextModel(_text_config(tokenizer, 4)),
        CLIPTextModelWithProjection(_text_config(tokenizer, 4)),
    ]
    return Denoiser(unet, encoders)


def sd1_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """An untrained model in the layout of SD 1.x: four levels, attention on three of them.

    The attention at full resolution has one head only, because it takes most of the time of so
    small a UNet.
    """
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels=(48, 64, 80, 64),
        layers_per_block=1,
        attention_head_dim=(1, 2, 2, 2),
        cross_attention_dim=128,
        norm_num_groups=16,
    )
    return Denoiser(unet, [CLIPTextModel(_text_config(tokenizer, 3))])


@dataclass(frozen=True)
class _Batch:
    """The inputs of one step. The same tensors are filled for every step, as a CUDA graph needs."""

    latents: torch.Tensor
    noise: torch.Tensor
    time: torch.Tensor
    tokens: torch.Tensor
    sizes: torch.Tensor

    @staticmethod
    def empty(size: int, device: str) -> "_Batch":
        latents = torch.zeros(size, 4, LATENT, LATENT, device=device)
        latents = latents.contiguous(memory_format=torch.channels_last)
        return _Batch(
            latents,
            torch.zeros_like(latents),
            torch.zeros(size, dtype=torch.long, device=device),
            torch.zeros(size, MAX_TOKENS, dtype=torch.long, device=device),
            torch.zeros(size, 6, device=device),
        )

    def fill(self, data: TrainingData, generator: torch.Generator) -> None:
        """Draw pictures, captions, noise, timesteps and sizes at random."""
        size, device = len(self.time), self.time.device

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=generator, device=device)

        chosen = (uniform(size) * len(data.latents)).long()
        self.latents.copy_(data.latents[chosen])
        self.noise.copy_(torch.randn(self.noise.shape, generator=generator, device=device))
        wording = (uniform(size) * data.captions.shape[1]).long()
        is_empty = uniform(size, 1) < EMPTY_CAPTIONS
        self.tokens.copy_(torch.where(is_empty, data.empty[None], data.captions[chosen, wording]))
        # One timestep from each of `size` equal slices: less variance than independent draws.
        slices = (torch.arange(size, device=device) + uniform(size)) / size
        self.time.copy_((slices * 1000).long().clamp(max=999))
        own = torch.tensor([SIDE, SIDE, 0, 0, SIDE, SIDE], device=device).float()
        other = torch.cat([64 + uniform(size, 2) * 1984, uniform(size, 2) * 64], 1).floor()
        other = torch.cat([other, own[4:].expand(size, -1)], 1)
        self.sizes.copy_(torch.where(uniform(size, 1) < OTHER_SIZES, other, own))


def train(
    denoiser: Denoiser,
    data: TrainingData,
    checkpoints: Checkpoints,
    *,
    rate: float = 1.5e-3,
    batch: int = 512,
    device: str = "cpu",
) -> Iterator[Report]:
    """Train on `device`, from the checkpoint if there is one; yields Reports.

    The batch of a step depends only on the step's number. Reports come at every step on a CPU. On a
    GPU they come every 20 steps, because reading the loss waits for the GPU.
    """
    denoiser.to(device).train()
    denoiser.unet.to(memory_format=torch.channels_last)
    data = data.to(device)
    optimizers = Optimizers(denoiser, plain=PLAIN, device=device)
    inputs, loss = _Batch.empty(batch, device), torch.zeros((), device=device)
    generator = torch.Generator(device)
    alphas_cumprod = schedule().alphas_cumprod.to(device)

    def take_step() -> None:
        error = _loss(denoiser, inputs, alphas_cumprod, device=device)
        error.backward()
        optimizers.step()
        loss.copy_(error.detach())

    ema = EMA(denoiser, horizon=1500)
    step = checkpoints.load(denoiser, optimizers, ema)
    if device != "cpu":
        inputs.fill(data, generator.manual_seed(0))
        take_step = _captured(take_step, optimizers, denoiser)
    every = 1 if device == "cpu" else 20
    while (share := checkpoints.share(step)) < 1:
        optimizers.set_rate(learning_rate(share, peak=rate))
        inputs.fill(data, generator.manual_seed(step))
        take_step()
        ema.update(step)
        step += 1
        if step % every == 0:
            yield Report(step, checkpoints.share(step), loss.item())
            checkpoints.save(step, denoiser, optimizers, ema)
    checkpoints.save(step, denoiser, optimizers, ema)


def _captured(
    take_step: Callable[[], None], optimizers: Optimizers, denoiser: Denoiser
) -> Callable[[], None]:
    """The step as one CUDA graph: launching thousands of small kernels would leave the GPU idle."""
    torch.backends.cudnn.benchmark = True
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    optimizers.set_rate(1e-7)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            take_step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        take_step()
    denoiser.load_state_dict(before)
    return graph.replay


def _loss(
    denoiser: Denoiser, inputs: _Batch, alphas_cumprod: torch.Tensor, *, device: str
) -> torch.Tensor:
    """The min-SNR weighted error of the predicted noise."""
    signal = alphas_cumprod[inputs.time]
    share = signal.view(-1, 1, 1, 1)
    noisy = share.sqrt() * inputs.latents + (1 - share).sqrt() * inputs.noise
    with fast_autocast(device):
        predicted = denoiser(noisy, inputs.time, inputs.tokens, inputs.sizes)
    snr = signal / (1 - signal)
    weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
    return (weight * (predicted.float() - inputs.noise).square().mean((1, 2, 3))).mean()
