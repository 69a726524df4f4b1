"""Shared parts of the sketch models' trainings: learning rate, Muon, EMA and checkpoints."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from studio.files import atomic_write

WARMUP = 0.03  # share of a training in which the learning rate rises


@dataclass(frozen=True)
class Report:
    """One training step was taken. share: of the whole training; value: PSNR in dB, or the loss."""

    step: int
    share: float
    value: float


@dataclass(frozen=True)
class Budget:
    """How long a training lasts: in steps, or in seconds of this and all earlier runs."""

    steps: int | None = None
    seconds: float | None = None

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is over after `step` steps in `seconds`: 0..1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def fast_autocast(device: str) -> AbstractContextManager:
    """bfloat16 on a GPU and on processors that compute in it; nothing where it is emulated."""
    is_fast = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    # A CUDA graph must not keep weights that were cast before it was captured.
    return torch.autocast(device, torch.bfloat16, enabled=is_fast, cache_enabled=False)


def learning_rate(share: float, *, peak: float) -> float:
    """Linear warmup, then a half cosine down to a fiftieth of the peak. share: 0..1."""
    if share < WARMUP:
        return peak * max(share / WARMUP, 0.01)
    progress = (share - WARMUP) / (1 - WARMUP)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Muon(torch.optim.Optimizer):
    """Muon (orthogonalised momentum) for matrices.

    Matrices (convolutions flattened to [out, in * kh * kw]) take Muon's step (Jordan et al. 2024),
    scaled so that Adam's learning rate fits (Liu et al. 2025, arXiv 2502.16982, eq. 4). Networks
    this small reach a given error in about a third of Adam's steps.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], rate: float | torch.Tensor):
        super().__init__(list(matrices), {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for shape, matrices in by_shape.items():
                self._step_shape(matrices, group["lr"], scale=0.2 * max(shape) ** 0.5)

    def _step_shape(
        self, matrices: list[torch.Tensor], rate: float | torch.Tensor, *, scale: float
    ) -> None:
        """Take a step for the matrices of one shape."""
        momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in matrices]
        gradients = [p.grad for p in matrices if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 0.05)
        ahead = torch._foreach_lerp(gradients, momenta, 0.95)
        changes = _orthogonal(torch.stack([m.flatten(1) for m in ahead])) * (scale * rate)
        torch._foreach_mul_(matrices, 1 - 0.01 * rate)  # pyright: ignore
        torch._foreach_sub_(
            matrices, [c.view_as(p) for c, p in zip(changes, matrices, strict=True)]
        )


def _orthogonal(stack: torch.Tensor) -> torch.Tensor:
    """Bring all singular values of [N, rows, columns] near one: five Newton-Schulz steps."""
    x = stack.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).float()


class Optimizers:
    """Muon for a module's matrices, AdamW for its other parameters, at one learning rate.

    plain: parts of the names of matrices that AdamW trains too: inputs, outputs and embeddings.
    """

    def __init__(self, module: nn.Module, *, plain: tuple[str, ...], device: str = "cpu"):
        named = list(module.named_parameters())
        matrices = [p for n, p in named if p.ndim >= 2 and not any(part in n for part in plain)]
        by_muon = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in by_muon]
        self.parameters = [p for _, p in named]
        on_gpu = device != "cpu"
        # On a GPU the rate is a tensor, which a CUDA graph reads at every replay.
        self.rate = torch.zeros((), device=device) if on_gpu else None
        self.muon = Muon(matrices, 0.0 if self.rate is None else self.rate)
        self.adam = torch.optim.AdamW(
            rest,
            lr=0.0 if self.rate is None else self.rate,
            betas=(0.9, 0.99),
            weight_decay=1e-3,
            fused=True,
            capturable=on_gpu,
        )

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of both optimizers."""
        if self.rate is not None:
            self.rate.fill_(rate)
            return
        for group in (*self.muon.param_groups, *self.adam.param_groups):
            group["lr"] = rate

    def step(self) -> None:
        """Clip the gradients to a norm of one, take a step, and zero the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.muon.step()
        self.adam.step()
        torch._foreach_zero_([p.grad for p in self.parameters if p.grad is not None])

    def state_dict(self) -> dict[str, object]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        if self.rate is not None:
            for group in (*self.muon.param_groups, *self.adam.param_groups):
                group["lr"] = self.rate


class EMA:
    """The exponential moving average of a module's weights over about `horizon` steps."""

    def __init__(self, module: nn.Module, horizon: int):
        self.horizon = horizon
        self.source = list(module.state_dict().values())
        self.names = list(module.state_dict())
        self.weights = [tensor.detach().clone() for tensor in self.source]

    def update(self, step: int) -> None:
        """Add the weights after `step`. The average is short at first, so that it does not lag."""
        keep = 1 - 1 / min(self.horizon, 1 + step / 4)
        floats = [tensor for tensor in self.weights if tensor.is_floating_point()]
        sources = [tensor for tensor in self.source if tensor.is_floating_point()]
        torch._foreach_lerp_(floats, sources, 1 - keep)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.weights, strict=True))

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, tensor in zip(self.names, self.weights, strict=True):
            tensor.copy_(state[name])


class Checkpoints:
    """One file with the state of a training, replaced every `every` seconds and at the end."""

    def __init__(self, path: Path, budget: Budget, *, every: float = 120.0):
        self.path, self.budget, self.every = path, budget, every
        self.seconds = 0.0  # of earlier runs
        self.began = self.written = time.monotonic()

    def load(self, module: nn.Module, optimizers: Optimizers, ema: EMA) -> int:
        """Restore the state, if there is one. Returns its number of steps, or 0."""
        step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            module.load_state_dict(state["module"])
            optimizers.load_state_dict(state["optimizers"])
            ema.load_state_dict(state["average"])
            step, self.seconds = state["step"], state["seconds"]
        self.began = self.written = time.monotonic()
        return step

    def share(self, step: int) -> float:
        """How much of the training is over after `step` steps."""
        return self.budget.share(step, self.seconds + time.monotonic() - self.began)

    def save(self, step: int, module: nn.Module, optimizers: Optimizers, ema: EMA) -> None:
        """Write the state, if the last one is older than `every` or the training is over."""
        now = time.monotonic()
        if now - self.written < self.every and self.share(step) < 1:
            return
        self.written = now
        state = {
            "step": step,
            "seconds": self.seconds + now - self.began,
            "module": module.state_dict(),
            "optimizers": optimizers.state_dict(),
            "average": ema.state_dict(),
        }
        with atomic_write(self.path, durable=False) as file:
            torch.save(state, file)
