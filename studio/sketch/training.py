"""What the trainings of the sketch models share: learning rate, Muon, EMA and checkpoints."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from studio.files import atomic_write


@dataclass(frozen=True)
class Report:
    """One training step was taken. value: PSNR in dB for the VAE, the loss for the others."""

    step: int
    steps: int
    value: float


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def learning_rate(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Linear warmup, then a half cosine down to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Muon(torch.optim.Optimizer):
    """Muon (orthogonalised momentum) for matrices, Adam for all other parameters.

    Matrices (convolutions flattened to [out, in * kh * kw]) take Muon's step (Jordan et al. 2024),
    scaled so that one learning rate suits both parts (Liu et al. 2025, arXiv 2502.16982, eq. 4).
    Networks this small reach a given error in about a third of Adam's steps.

    Args:
        module: the module to train.
        rate: the learning rate.
        plain: parts of the names of matrices that Adam trains: inputs, outputs and embeddings.
    """

    def __init__(self, module: nn.Module, rate: float, *, plain: tuple[str, ...] = ()):
        named = list(module.named_parameters())
        matrix = [p for name, p in named if p.ndim >= 2 and not any(part in name for part in plain)]
        by_muon = {id(p) for p in matrix}
        rest = [p for _, p in named if id(p) not in by_muon]
        super().__init__(
            [{"params": matrix, "matrices": True}, {"params": rest, "matrices": False}],
            {"lr": rate},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if group["matrices"]:
                self._step_matrices(trained, group["lr"])
            else:
                self._step_adam(trained, group["lr"])

    def _step_matrices(self, trained: list[nn.Parameter], rate: float) -> None:
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in trained:
            by_shape.setdefault((p.shape[0], p[0].numel()), []).append(p)
        for shape, group in by_shape.items():
            updates = []
            for p in group:
                assert p.grad is not None
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                updates.append(p.grad.lerp(momentum, 0.95).flatten(1))
            steps = _orthogonal(torch.stack(updates)) * (0.2 * max(shape) ** 0.5)
            for p, change in zip(group, steps, strict=True):
                p.mul_(1 - 0.01 * rate).add_(change.view_as(p), alpha=-rate)

    def _step_adam(self, trained: list[nn.Parameter], rate: float) -> None:
        for p in trained:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["count"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["count"] += 1
            count = int(state["count"])
            state["mean"].lerp_(p.grad, 0.1)
            state["square"].lerp_(p.grad.square(), 0.01)
            deviation = (state["square"] / (1 - 0.99**count)).sqrt_().add_(1e-8)
            p.addcdiv_(state["mean"], deviation, value=-rate / (1 - 0.9**count))


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
    """One file with the state of a training, replaced every `every` steps and at the end."""

    def __init__(self, path: Path, every: int = 500):
        self.path, self.every = path, every

    def load(self, module: nn.Module, optimiser: torch.optim.Optimizer, ema: EMA) -> int:
        """Restore the state, if there is one; the number of steps it has taken, else 0."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        ema.load_state_dict(state["average"])
        return state["step"]

    def save(
        self,
        step: int,
        steps: int,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        ema: EMA,
    ) -> None:
        """Write the state after every `every` steps and after the last."""
        if step % self.every and step != steps:
            return
        state = {
            "step": step,
            "module": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": ema.state_dict(),
        }
        with atomic_write(self.path, durable=False) as file:
            torch.save(state, file)
