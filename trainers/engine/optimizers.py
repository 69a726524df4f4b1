"""The optimizers, and the learning rate of each parameter.

AdamW (Loshchilov & Hutter 2019) is PyTorch's. The others come from other packages: 8-bit AdamW
(Dettmers et al. 2022, arXiv 2110.02861), Prodigy, which finds the learning rate by itself
(Mishchenko & Defazio 2024, arXiv 2306.06101), and Lion (Chen et al. 2023, arXiv 2302.06675).

LoRA+ (Hayou et al. 2024, arXiv 2402.12354): matrices that start at zero have a higher learning
rate; the authors take 16 times the rate of the others.
"""

from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, TypedDict

import torch

from studio.adapters.delta import Kron, LowRank, Rotation, Sparse
from studio.errors import BadInput
from trainers.engine.starts import StartedLowRank
from trainers.engine.text_encoders import TOKEN

if TYPE_CHECKING:
    from torch import nn

    from studio.requests.recipe import Recipe

# The module of each optimizer, and the package to install.
PACKAGES = {
    "adamw8bit": ("bitsandbytes", "bitsandbytes"),
    "prodigy": ("prodigyopt", "prodigyopt"),
    "lion": ("lion_pytorch", "lion-pytorch"),
}

# bitsandbytes keeps tensors below SMALLEST in float32, and quantizes others in blocks of BLOCK.
SMALLEST, BLOCK = 4096, 256


class Group(TypedDict):
    """Parameters of one learning rate. share: that rate as a multiple of the step's."""

    params: "list[nn.Parameter]"
    share: float


def check_optimizer(name: str) -> None:
    """Raise BadInput, with the command that installs it, where an optimizer is not installed."""
    module, package = PACKAGES.get(name, ("torch", "torch"))
    if find_spec(module) is None:
        raise BadInput(
            f"optimizer is {name} but that is not installed: run `pip install {package}`, or "
            "choose adamw"
        )


def parameter_groups(trained: "Mapping[str, nn.Module]", recipe: "Recipe") -> list[Group]:
    """The parameters in groups of equal learning rate, as an optimizer takes them.

    Raises BadInput where LoRA+ is asked for and a delta has no matrix that starts at zero.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, module in trained.items():
        rate = recipe.lr if name.startswith("unet.") else recipe.text_lr
        rate = recipe.token_lr if name.startswith(TOKEN) else rate
        faster = {id(p) for p in _from_zero(module)} if recipe.lora_plus != 1 else set()
        for parameter in module.parameters():
            ratio = recipe.lora_plus if id(parameter) in faster else 1.0
            groups.setdefault(rate / recipe.lr * ratio, []).append(parameter)
    return [{"params": params, "share": share} for share, params in groups.items()]


def learning_rates(
    trained: "Mapping[str, nn.Module]", recipe: "Recipe", rate: float
) -> dict[str, float]:
    """The learning rate of every part that learns, by name. rate: that of the UNet."""
    rates = {"unet": rate}
    if any(name.startswith("text_encoder") for name in trained):
        rates["text encoders"] = rate * recipe.text_lr / recipe.lr
    if any(name.startswith(TOKEN) for name in trained):
        rates["new tokens"] = rate * recipe.token_lr / recipe.lr
    return rates


def _from_zero(module: "nn.Module") -> "list[nn.Parameter]":
    """The matrices of a module that start at zero. Raises BadInput where it has none."""
    if isinstance(module, StartedLowRank):
        if module.from_zero is None:
            raise BadInput(
                "lora_plus speeds up the factor that starts at zero, and this start has none: "
                "leave one of the two out"
            )
        return [getattr(module, module.from_zero)]
    if isinstance(module, LowRank):
        return [module.up]
    if isinstance(module, Kron):
        return list(module.b_parts)
    if isinstance(module, Sparse | Rotation):
        raise BadInput(
            "lora_plus speeds up the one of two factors that starts at zero, but this kind trains "
            "no factors: leave it out"
        )
    return []


def new_optimizer(
    groups: list[Group], recipe: "Recipe", *, scaled: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that the recipe names. scaled: whether GradScaler scales the loss, for fp16."""
    name, rate, decay = recipe.optimizer, recipe.lr, recipe.weight_decay
    grouped = [dict(group) for group in groups]
    if name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

        return AdamW8bit(grouped, lr=rate, weight_decay=decay)
    if name == "prodigy":
        from prodigyopt import Prodigy

        # Without Adam's bias correction: with it, the estimated rate was only a twentieth after 60
        # steps on the sketch base. Prodigy prints a line about decoupled decay, which is hidden.
        with redirect_stdout(StringIO()):
            return Prodigy(
                grouped,
                lr=rate,
                weight_decay=decay,  # pyright: ignore[reportArgumentType]
                safeguard_warmup=True,
            )
    if name == "lion":
        from lion_pytorch import Lion

        return Lion(grouped, lr=rate, weight_decay=decay)
    # Fused makes one call a step, not ten for each of hundreds of small tensors. In fp16 GradScaler
    # skips steps that overflow; accelerate notices that only if AdamW is not fused.
    return torch.optim.AdamW(grouped, lr=rate, weight_decay=decay, fused=not scaled)


def state_bytes(name: str, parameters: "Iterable[nn.Parameter]") -> int:
    """Bytes of the optimizer's state for these parameters; the state is float32 unless noted."""
    total = 0
    for parameter in parameters:
        size = parameter.numel()
        if name == "adamw8bit" and size >= SMALLEST:
            # A byte for each of two moments, and a float32 scale for every block.
            total += 2 * (size + 4 * -(-size // BLOCK))
        elif name == "prodigy":
            # Two moments, a running sum, and the initial values, which are one 0 if all are zero.
            total += 4 * size * (4 if parameter.device.type == "meta" or parameter.any() else 3)
        else:
            total += 4 * size * (1 if name == "lion" else 2)
    return total


def start_afresh(optimizer: torch.optim.Optimizer) -> None:
    """Reset the optimizer's state. Its parameters may have other sizes than before."""
    optimizer.state.clear()
    for group in optimizer.param_groups:  # Prodigy keeps its estimate of the rate there
        group.update(optimizer.defaults)
