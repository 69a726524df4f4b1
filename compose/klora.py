"""K-LoRA: in every layer either the content adapter or the style adapter, by their largest entries.

Ouyang et al. 2025, arXiv 2502.18461 (CVPR). S is the sum of the K largest |dW| of a layer, with
K = r_c r_s. A layer takes the content where S_c / gamma > S_s s(t), and the style elsewhere;
s(t) = alpha t + beta, where t is the share of the steps that are done. So the content is favoured
in early steps, the style in late ones. github.com/HVision-NKU/K-LoRA, klora.py. One evaluation a
step. The choice depends only on the weights and the step, so all choices are made before the first
step.

Deliberate deviations from the authors' code: the step is the denoising step, not a count of all
forward calls; an adapter's alpha counts; the choice is made in every layer that both adapters
change, not only in attention layers; a layer that only one adapter changes takes that adapter. A
tie goes to the style, as in the code (in the paper, to the content), and gamma is the code's unless
`gamma="total"`.

The paper leaves these open: K is 64, the product of the paper's ranks of 8, where a form has no
rank; several adapters in one role count by the sum of their changes; layers of the text encoders,
which run once a picture, are chosen at s = 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compose.engine.method import InTurn, MethodAdapter, Mix, Part, check_places
from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne
from studio.requests.validation import check as check_options
from studio.requests.validation import option

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter

NO_RANK = 64  # the K of forms without a rank
OUTLIER = 3  # gamma leaves out ratios of this many times the mean and more


@dataclass(frozen=True)
class KLoRA:
    """Mixes a content and a style. Adapters that all have the same role are summed.

    content, style: numbers of the shot's adapters, from 1. gamma: "layers" is the mean over
    layers of sum |dW_c| / sum |dW_s| without outliers; "total" is the ratio of the sums over all
    layers. pattern: "style" wraps s(t) at alpha, so that it begins just below alpha, falls to zero
    and rises again.
    """

    content: tuple[int, ...] = option(
        (), "which adapters bring the subject, by number from 1; default: the first of two"
    )
    style: tuple[int, ...] = option(
        (), "which adapters bring the style, by number from 1; default: the second of two"
    )
    pattern: Literal["linear", "style"] = option(
        "linear", "how the scale s(t) runs over the steps; style favours the style early, too"
    )
    alpha: float = option(
        1.5, "slope of the scale s(t) = alpha t + beta: how much the style gains by the end"
    )
    beta: float | None = option(
        None, "start of the scale; default: 0.5, with the pattern style 0.85 alpha"
    )
    gamma: Literal["layers", "total"] = option(
        "layers", "how the two are balanced: layer by layer on average, or in total"
    )
    k: AtLeastOne | None = option(
        None, "entries that are compared in each layer; default: the product of the ranks"
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every adapter must have exactly one role; of two adapters the first is the content."""
        check_options(self)
        count = len(adapters)
        check_places("content", self.content, count)
        check_places("style", self.style, count)
        if count > 2 and not (self.content or self.style):
            raise BadInput(
                f"klora mixes a content with a style: say which of the {count} adapters are the "
                "style with the option style."
            )
        roles = [at for group in self._roles(count) for at in group]
        for at in range(count):
            if roles.count(at) != 1:
                now = "both or twice" if at in roles else "neither"
                raise BadInput(f"klora: adapter {at + 1} is to be content or style, not {now}.")
        if self.pattern == "style" and self.alpha <= 0:
            raise BadInput(f"alpha: {self.alpha:g} is not above 0, which the pattern style needs.")

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> InTurn:
        content, style = ([adapters[at] for at in role] for role in self._roles(len(adapters)))
        shared = _layers(content) & _layers(style)
        # S_c / (gamma S_s) of every layer that both roles change. The UNet and the text encoders
        # each have a gamma of their own.
        unet = self._balanced({n for n in shared if n.startswith("unet.")}, content, style)
        texts = self._balanced({n for n in shared if not n.startswith("unet.")}, content, style)
        plain_text = {name for name, ratio in texts.items() if ratio > 1}
        mixes: dict[frozenset[str], Mix] = {}
        chosen = []
        for step in range(steps):
            scale = self.scale(step / steps)
            own = frozenset(name for name, ratio in unet.items() if ratio > scale) | plain_text
            if own not in mixes:
                taken = _layers(content) - shared | own, _layers(style) - own
                mixes[own] = self._mix(adapters, *map(frozenset, taken))
            chosen.append(mixes[own])
        return InTurn(tuple(chosen))

    def scale(self, done: float) -> float:
        """s(t). done: t, in [0, 1]."""
        if self.pattern == "style":
            beta = 0.85 * self.alpha if self.beta is None else self.beta
            return (self.alpha * done + beta) % self.alpha
        return self.alpha * done + (0.5 if self.beta is None else self.beta)

    def _roles(self, count: int) -> tuple[list[int], list[int]]:
        """The places, from 0, of the content's adapters and of the style's."""
        content, style = ([at - 1 for at in role] for role in (self.content, self.style))
        if not content and not style:
            content = list(range(min(count, 1)))
        if not content:
            content = [at for at in range(count) if at not in style]
        if not style:
            style = [at for at in range(count) if at not in content]
        return content, style

    def _balanced(
        self, layers: set[str], content: list[MethodAdapter], style: list[MethodAdapter]
    ) -> dict[str, float]:
        """S_c / (gamma S_s) by layer: infinite where S_s is 0, minus infinite where S_c is 0."""
        if not layers:
            return {}
        sizes = []
        for layer in sorted(layers):
            k = self.k or _entries(layer, content, style)
            sizes += [_size(layer, role, k) for role in (content, style)]
        import torch

        # Sums kept from earlier may be on another device: an offloaded UNet starts on the CPU.
        sizes = [size.to(sizes[0].device) for size in sizes]
        tops, sums = torch.stack(sizes).view(-1, 2, 2).unbind(2)  # -> [layers, 2] each
        gamma = self._gamma([pair for pair in sums.tolist() if all(pair)])
        ratios = {}
        for layer, (of_content, of_style) in zip(sorted(layers), tops.tolist(), strict=True):
            ratios[layer] = of_content / (gamma * of_style) if of_style else math.inf
            ratios[layer] = ratios[layer] if of_content else -math.inf
        return ratios

    def _gamma(self, sums: list[list[float]]) -> float:
        """gamma, from each layer's sums of |dW_c| and |dW_s|."""
        if not sums:
            return 1.0
        if self.gamma == "total":
            return sum(content for content, _ in sums) / sum(style for _, style in sums)
        ratios = [content / style for content, style in sums]
        most = OUTLIER * sum(ratios) / len(ratios)
        usual = [ratio for ratio in ratios if ratio < most]
        return sum(usual) / len(usual)

    def _mix(
        self, adapters: Sequence[MethodAdapter], content: frozenset[str], style: frozenset[str]
    ) -> Mix:
        roles = zip(self._roles(len(adapters)), (content, style), strict=True)
        parts = (
            Part(at, adapters[at].strength, layers) for places, layers in roles for at in places
        )
        return Mix(tuple(parts))


def _layers(role: Iterable[MethodAdapter]) -> set[str]:
    """The layers that a role changes; at strength 0 an adapter changes nothing."""
    return {layer for adapter in role if adapter.strength for layer in adapter.changed()}


def _members(layer: str, role: Iterable[MethodAdapter]) -> list[MethodAdapter]:
    """The adapters of a role that change this layer."""
    return [each for each in role if each.strength and layer in each.adapter.deltas]


def _size(layer: str, role: Iterable[MethodAdapter], k: int) -> "Tensor":
    """[2], float64: the sums of the k largest |entries| and of all |entries| of a role's change.

    With a single adapter both are linear in its strength, so kept sums serve every strength.
    """
    members = _members(layer, role)
    if len(members) == 1:
        return abs(members[0].strength) * members[0].size(layer, k)
    from compose.engine.weights.adapter_change import entry_sums

    first, *others = (each.strength * each.change(layer).flatten() for each in members)
    return entry_sums(sum(others, first), k)


def _entries(layer: str, *roles: Iterable[MethodAdapter]) -> int:
    """K = r_c r_s; the rank of a role is the sum of its adapters' ranks."""
    from studio.adapters.delta import LowRank  # this imports PyTorch

    product = 1
    for role in roles:
        deltas = [each.adapter.deltas[layer] for each in _members(layer, role)]
        ranks = [delta.rank for delta in deltas if isinstance(delta, LowRank)]
        if len(ranks) < len(deltas):
            return NO_RANK
        product *= sum(ranks)
    return product
