"""The state of a training that a checkpoint holds: tensors by name, and the rest as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that a step changes, and that a resumed run needs."""

    trained: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    average: Mapping[str, nn.Module] = field(default_factory=dict)
    """the EMA of the trained modules"""

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights, their average and the optimizer's tensors, by name."""
        named = {
            f"{what}/{owner}/{name}": tensor
            for what, modules in self._modules()
            for owner, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        for number, slots in self._optimizer_state()["state"].items():
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    # bitsandbytes shares these among parameters; safetensors refuses shared ones.
                    unshared = value.clone() if name in ("qmap1", "qmap2") else value
                    named[f"optimizer/{number}/{name}"] = unshared
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def as_json(self) -> dict[str, object]:
        """The settings and counters of the optimizer and of GradScaler."""
        state = self._optimizer_state()
        slots = {
            number: {k: v for k, v in slots.items() if not isinstance(v, Tensor)}
            for number, slots in state["state"].items()
        }
        groups = [{k: v for k, v in g.items() if k != "params"} for g in state["param_groups"]]
        scaler = self.scaler.state_dict() if self.scaler else None
        return {"slots": slots, "groups": groups, "scaler": scaler}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping) -> None:
        """The inverse of `tensors` and `as_json`."""
        for what, modules in self._modules():
            for owner, module in modules.items():
                prefix = f"{what}/{owner}/"
                module.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
        slots = {int(number): dict(values) for number, values in plain["slots"].items()}
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/")
                slots.setdefault(int(number), {})[name] = tensor
        groups = self._optimizer_state()["param_groups"]
        for group, saved in zip(groups, plain["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.scaler and plain["scaler"]:
            self.scaler.load_state_dict(plain["scaler"])

    def _modules(self) -> tuple[tuple[str, Mapping[str, nn.Module]], ...]:
        return ("parameter", self.trained), ("average", self.average)

    def _optimizer_state(self) -> dict:
        # PyTorch's method, because bitsandbytes' own puts its tensors into nested dicts.
        return torch.optim.Optimizer.state_dict(self.optimizer)
