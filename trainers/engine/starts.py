"""How the factors of a LoRA start, and which of them learn: dW = s (B C A - B0 A0).

    start      B                      C         A                       subtracted
    kaiming    0                                uniform, as peft's
    gaussian   0                                N(0, 1/r^2)
    pissa      U_r sqrt(S_r / s)                sqrt(S_r / s) V_r'      B A at the start
    olora      Q_r                              R_r                     B A at the start
    eva        0                                main inputs
    mica       last r of U, frozen              0
    svfit      U_r, frozen            diag(0)   V_r', frozen
    loldu      (P L)_r, frozen        diag(0)   U_r, frozen
    mosl       0                      r x r     uniform, as peft's
    miss       0                                [I I ... I], frozen

W = U S V' is the layer's weight, = Q R, or = P L D U with ones on L's and U's diagonals. Sources:
PiSSA (Meng et al. 2024, arXiv 2404.02948), OLoRA (Bueyuekakyuez 2024, 2406.01775), EVA (Paischer et
al. 2024, 2410.07170), MiCA (2604.01694), SVFit (Sun et al. 2024, 2409.05926), LoLDU (Shi et al.
2024, 2410.13618), MoSLoRA (Wu et al. 2024, 2406.11909), MiSS (Kang & Yin 2024, 2409.15371).

In a file C is multiplied into A, and what is subtracted takes r more ranks. So every file is a
plain LoRA, of rank 2r after pissa and olora, and the base never changes. Deviations: SVFit and
LoLDU train the change of their diagonal, so that strengths act linearly. EVA gives each layer the
rank r (its rho of 1) and does not centre inputs; keys and values of the text, whose inputs are
mostly padding, start as in kaiming. MiCA and PiSSA give a layer no more ranks than its weight has.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from studio.adapters.delta import Delta, LowRank
from studio.adapters.delta.layer import adaptable, row_norms
from studio.adapters.delta.low_rank import alpha_of

Factor = Literal["down", "middle", "up"]  # A, C and B
ROWS = torch.contiguous_format
PASSES = 16  # the most passes through the base, for eva
AGREEING = 0.99  # least cosine of an axis before and after a pass, for eva (the paper's tau)


class LoRAOptions(Protocol):
    """The options of a LoRA that a start depends on; see trainers/lora.py."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def rank_stabilised(self) -> bool: ...
    @property
    def dora(self) -> bool: ...
    @property
    def dropout(self) -> float: ...
    @property
    def start(self) -> str: ...


@dataclass(frozen=True)
class Start:
    """The factors of one layer, as matrices: A [r, n], B [out, r], C [r] (a diagonal) or [r, r].

    frozen: the factors that don't learn. zero: the factor that starts at zero, if any.
    subtracted: whether the initial B A is subtracted, because no factor starts at zero.
    """

    down: Tensor
    up: Tensor
    middle: Tensor | None = None
    frozen: tuple[Factor, ...] = ()
    zero: Factor | None = "up"
    subtracted: bool = False


class StartedLowRank(LowRank):
    """A low-rank change with a special start, while it learns; `folded` gives the plain LowRank.

    Frozen and subtracted factors are buffers: checkpoints hold them, optimizers don't see them.
    """

    middle: Tensor | None
    down0: Tensor | None
    up0: Tensor | None

    def __init__(self, start: Start, weight: Tensor, alpha: float, options: LoRAOptions) -> None:
        # Decompositions return views of larger matrices, in column order.
        down, up = (factor.clone(memory_format=ROWS) for factor in (start.down, start.up))
        down, up = (
            down.view(-1, *weight.shape[1:]),
            up.view(*up.shape, *(1 for _ in weight.shape[2:])),
        )
        super().__init__(
            down,
            up,
            alpha,
            rank_stabilised=options.rank_stabilised,
            magnitude=row_norms(weight) if options.dora else None,
            dropout=options.dropout,
        )
        self.middle = None if start.middle is None else nn.Parameter(start.middle)
        self.from_zero = start.zero
        for name in start.frozen:
            frozen = getattr(self, name).detach()
            delattr(self, name)
            self.register_buffer(name, frozen)
        self.register_buffer("down0", down.clone() if start.subtracted else None)
        self.register_buffer("up0", up.clone() if start.subtracted else None)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Down and up of the plain product: C multiplied into A, subtracted factors appended."""
        down, up = self.down, self.up
        if self.middle is not None:
            middle = self.middle.diag() if self.middle.ndim == 1 else self.middle
            down = (middle @ down.flatten(1)).view(down.shape)
        if self.down0 is not None and self.up0 is not None:
            down, up = torch.cat([down, self.down0]), torch.cat([up, -self.up0], dim=1)
        return down, up

    def folded(self) -> LowRank:
        """The same change as a plain LowRank of `factors`."""
        down, up = (factor.detach() for factor in self.factors())
        return LowRank(
            down,
            up,
            alpha_of(self.scale, len(down), rank_stabilised=self.rank_stabilised),
            rank_stabilised=self.rank_stabilised,
            magnitude=None if self.magnitude is None else self.magnitude.detach(),
        )


def plain(deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    """The deltas in the forms that files hold."""
    return {
        layer: delta.folded() if isinstance(delta, StartedLowRank) else delta
        for layer, delta in deltas.items()
    }


def start_low_rank(
    options: LoRAOptions, name: str, layer: nn.Module, *, generator: torch.Generator
) -> LowRank:
    """A layer's new delta, which changes nothing yet: float32, on the layer's device."""
    rank, stabilised = options.rank, options.rank_stabilised
    alpha = float(rank if options.alpha is None else options.alpha)
    if options.start == "kaiming" or (options.start == "eva" and not _fits_inputs(name, layer)):
        return LowRank.start(
            layer,
            rank,
            alpha=alpha,
            rank_stabilised=stabilised,
            dora=options.dora,
            dropout=options.dropout,
            generator=generator,
        )
    weight = adaptable(layer).weight.detach()
    scale = alpha / alpha_of(1, rank, rank_stabilised=stabilised)
    start = STARTS[options.start](weight.float().flatten(1), rank, scale, generator)
    alpha = alpha_of(scale, len(start.down), rank_stabilised=stabilised)
    return StartedLowRank(start, weight, alpha, options)


def _up_zero(weight: Tensor, down: Tensor, **more: object) -> Start:
    return Start(down, weight.new_zeros(len(weight), len(down)), **more)  # pyright: ignore


def _uniform(rows: int, columns: int, weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.empty(rows, columns)
    return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator).to(weight.device)


def _gaussian(weight: Tensor, rank: int, _: float, generator: torch.Generator) -> Start:
    drawn = torch.randn(rank, weight.shape[1], generator=generator) / rank
    return _up_zero(weight, drawn.to(weight.device))


def _pissa(weight: Tensor, rank: int, scale: float, _: torch.Generator) -> Start:
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    roots = (sizes[:rank] / scale).sqrt()
    down, up = roots[:, None] * right[:rank], left[:, :rank] * roots
    return Start(down, up, zero=None, subtracted=True)


def _olora(weight: Tensor, rank: int, _: float, __: torch.Generator) -> Start:
    left, right = torch.linalg.qr(weight)
    return Start(right[:rank], left[:, :rank], zero=None, subtracted=True)


def _eva(weight: Tensor, rank: int, _: float, generator: torch.Generator) -> Start:
    """As kaiming; `fit_to_inputs` then replaces A."""
    return _up_zero(
        weight, _uniform(min(rank, weight.shape[1]), weight.shape[1], weight, generator)
    )


def _mica(weight: Tensor, rank: int, _: float, __: torch.Generator) -> Start:
    least = torch.linalg.svd(weight, full_matrices=False)[0][:, -rank:]
    down = weight.new_zeros(least.shape[1], weight.shape[1])
    return Start(down, least, frozen=("up",), zero="down")


def _svfit(weight: Tensor, rank: int, _: float, __: torch.Generator) -> Start:
    left, _sizes, right = torch.linalg.svd(weight, full_matrices=False)
    return _diagonal(left[:, :rank], right[:rank])


def _loldu(weight: Tensor, rank: int, _: float, __: torch.Generator) -> Start:
    permutation, lower, upper = torch.linalg.lu(weight)
    pivots = upper.diagonal()[:, None]
    upper = upper / torch.where(pivots == 0, torch.ones_like(pivots), pivots)
    return _diagonal((permutation @ lower)[:, :rank], upper[:rank])


def _diagonal(up: Tensor, down: Tensor) -> Start:
    middle = down.new_zeros(len(down))
    return Start(down, up, middle, frozen=("down", "up"), zero="middle")


def _mosl(weight: Tensor, rank: int, _: float, generator: torch.Generator) -> Start:
    down = _uniform(rank, weight.shape[1], weight, generator)
    return _up_zero(weight, down, middle=_uniform(rank, rank, weight, generator))


def _miss(weight: Tensor, rank: int, _: float, __: torch.Generator) -> Start:
    tiles = torch.eye(rank, device=weight.device).repeat(1, -(-weight.shape[1] // rank))
    return _up_zero(weight, tiles[:, : weight.shape[1]], frozen=("down",))


STARTS: dict[str, Callable[[Tensor, int, float, torch.Generator], Start]] = {
    "gaussian": _gaussian,
    "pissa": _pissa,
    "olora": _olora,
    "eva": _eva,
    "mica": _mica,
    "svfit": _svfit,
    "loldu": _loldu,
    "mosl": _mosl,
    "miss": _miss,
}


def _fits_inputs(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and not name.endswith((".attn2.to_k", ".attn2.to_v"))


@torch.no_grad()
def fit_to_inputs(
    layers: Mapping[str, nn.Module], deltas: Mapping[str, Delta], passes: Iterator[None]
) -> None:
    """For eva, set A to the main axes of each layer's inputs.

    passes: each `next` runs the base once on pictures of the training.
    """
    axes = {
        name: _Axes(delta.down)
        for name, delta in deltas.items()
        if isinstance(delta, StartedLowRank)
    }
    with _inputs_added(layers, axes):
        for _, _ in zip(range(PASSES), passes, strict=False):
            if all(layer_axes.settled for layer_axes in axes.values()):
                break


class _Axes:
    """The main axes of all inputs so far, by incremental principal component analysis.

    They are the right singular vectors of the inputs. down: [r, n], holds them.
    settled: whether the last inputs left their directions nearly unchanged.
    """

    def __init__(self, down: Tensor) -> None:
        self.down, self.weighted, self.settled = down, torch.zeros_like(down), False

    def add(self, inputs: Tensor) -> None:
        """Update the axes with inputs [N, n]."""
        # float32 is precise enough for the main directions of some thousand inputs.
        gram = inputs.T @ inputs + self.weighted.T @ self.weighted
        squares, vectors = torch.linalg.eigh(gram)  # ascending
        axes = vectors.flip(1).T[: len(self.down)]
        sizes = squares.flip(0)[: len(self.down)].clamp_min(0).sqrt()
        self.settled = bool(((axes * self.down).sum(1).abs() > AGREEING).all())
        self.weighted = sizes[:, None] * axes
        self.down.copy_(axes)


@contextmanager
def _inputs_added(layers: Mapping[str, nn.Module], axes: Mapping[str, _Axes]) -> Iterator[None]:
    """Inside the block, every layer's inputs are added to its axes."""
    with ExitStack() as hooks:
        for name, layer_axes in axes.items():

            def add(_: nn.Module, args: tuple[Tensor, ...], own: _Axes = layer_axes) -> None:
                own.add(args[0].flatten(0, -2).to(own.down))

            handle = layers[name].register_forward_pre_hook(add)
            hooks.callback(handle.remove)
        yield
