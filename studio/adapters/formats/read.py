"""Read the deltas of an adapter's file, whichever program wrote it.

Sources: kohya's sd-scripts (networks/lora.py), peft (tuners/lora, lokr, loha), LyCORIS
(functional/general.py, locon.py, loha.py, lokr.py) and DiffuseKronA's krona.py. Forms that Studio
has not itself are converted exactly: a Tucker convolution is a low-rank product with its middle
tensor multiplied in, and a LoHa of rank r is a low-rank product of rank r^2. Both are multiplied
out only when they are used (studio/adapters/delta/computed.py).
"""

import math
from collections.abc import Mapping
from functools import partial, reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from studio.adapters.delta import BiasOnly, Delta, Dense, Kron, LowRank, Sparse
from studio.adapters.delta.computed import (
    ComputedDense,
    ComputedLowRank,
    locon_factors,
    loha_change,
    loha_factors,
    loha_tucker_change,
)
from studio.adapters.delta.layer import read_magnitude
from studio.adapters.formats.peft_config import PeftConfig, config_of
from studio.adapters.formats.read_oft import read_rotation
from studio.adapters.formats.survey import EXTRAS, Contents
from studio.adapters.formats.weight_shapes import check_sizes
from studio.errors import BadInput


def read_deltas(contents: Contents, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Delta]:
    """The deltas of a surveyed file, by layer. Raises BadInput where numbers are out of range."""
    deltas: dict[str, Delta] = {}
    for layer, leaves in contents.layers.items():
        own = _in_one_dtype({leaf: tensors[key] for leaf, key in leaves.items()})
        config, (_, _, name) = config_of(layer, contents.configs), layer.partition(".")
        try:
            delta = _delta(contents.forms[layer], own, config, name)
            _check(delta)
        except ValueError as error:
            raise BadInput(f"{path} is damaged: {layer} {error}") from error
        deltas[layer] = delta
    check_sizes({layer: delta.shape for layer, delta in deltas.items()}, path)
    return deltas


def read_embeddings(
    contents: Contents, tensors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The embeddings of a surveyed file: [n, width] by token and text encoder."""
    return {
        token: {name: torch.atleast_2d(_computable(tensors[key])) for name, key in keys.items()}
        for token, keys in contents.embeddings.items()
    }


def _in_one_dtype(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer's tensors, with all factors of the change in the widest of their dtypes."""
    wide = {leaf: _computable(tensor) for leaf, tensor in own.items()}
    factors = {k for k, v in wide.items() if v.is_floating_point() and k not in EXTRAS}
    if not factors:
        return wide
    widest = reduce(torch.promote_types, (wide[leaf].dtype for leaf in factors))
    return {leaf: v.to(widest) if leaf in factors else v for leaf, v in wide.items()}


def _computable(tensor: Tensor) -> Tensor:
    """float8 as float16, which is exact; PyTorch cannot compute in float8."""
    return tensor.half() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _delta(form: str, own: dict[str, Tensor], config: PeftConfig, name: str) -> Delta:
    alpha = float(own["alpha"]) if "alpha" in own else config.alpha.find(name)
    match form:
        case "lora":
            return _lora(own, alpha, config.rank_stabilised)
        case "krona":
            # The program's `down` is A transposed, and its layer swaps the product's rows.
            return Kron(
                own["lora_A.weight"].T.contiguous(), own["lora_B.weight"], rows_swapped=True
            )
        case "loha":
            return _loha(own, alpha)
        case "lokr":
            rank = config.rank.find(name) if config.peft_type == "LOKR" else None
            return _lokr(own, alpha, rank)
        case "sparse":
            return Sparse.from_tensors(own)
        case "oft":
            return read_rotation(own, alpha, config)
        case "bias":
            return BiasOnly.from_tensors(own)
    return Dense.from_tensors(own)


def _lora(own: dict[str, Tensor], alpha: float | None, rank_stabilised: bool) -> LowRank | BiasOnly:
    if "lora_mid.weight" in own:
        parts = [own[leaf] for leaf in ("lora_mid.weight", "lora_A.weight", "lora_B.weight")]
        delta: LowRank = ComputedLowRank(
            parts,
            locon_factors,
            float(parts[0].shape[0]) if alpha is None else alpha,
            rank_stabilised=rank_stabilised,
            magnitude=read_magnitude(own),
            up_bias=own.get("lora_B.bias"),
        )
    else:
        delta = LowRank.from_tensors(own, alpha=alpha, rank_stabilised=rank_stabilised)
    return _with_bias(delta, own.get("diff_b"))


def _with_bias(delta: LowRank, bias: Tensor | None) -> LowRank | BiasOnly:
    """The delta with a change of the bias that the delta's scale does not multiply."""
    if bias is None:
        return delta
    if delta.scale == 0:
        return BiasOnly(bias)
    delta.up_bias = nn.Parameter(bias.float() / delta.scale)
    return delta


def _loha(own: dict[str, Tensor], alpha: float | None) -> LowRank | Dense | BiasOnly:
    """LoHa as low-rank factors, or as a full matrix where that has fewer numbers."""
    parts = [own[f"hada_w{n}_{side}"] for n in "12" for side in "ab"]
    rank, magnitude, bias = parts[1].shape[0], read_magnitude(own), own.get("diff_b")
    scale = 1.0 if alpha is None else alpha / rank
    if "hada_t1" in own:
        cores = [own["hada_t1"], own["hada_t2"]]
        change = partial(loha_tucker_change, scale=scale)
        return ComputedDense([*parts, *cores], change, bias=bias, magnitude=magnitude)
    outputs, inputs, product = parts[0].shape[0], parts[1].shape[1], rank * parts[3].shape[0]
    if product * (outputs + inputs) >= outputs * inputs:
        change = partial(loha_change, scale=scale)
        return ComputedDense(parts, change, bias=bias, magnitude=magnitude)
    delta = ComputedLowRank(parts, loha_factors, scale * product, magnitude=magnitude)
    return _with_bias(delta, bias)


def _lokr(own: dict[str, Tensor], alpha: float | None, rank: float | None) -> Kron:
    """LyCORIS scales by alpha / rank only if a factor is decomposed; peft states the rank."""
    ranks = [own[leaf].shape[0] for leaf in ("lokr_w2_b", "lokr_w1_b") if leaf in own]
    rank = ranks[0] if ranks else rank
    scale = alpha / rank if rank and alpha is not None else 1.0
    return Kron.from_tensors(own, scale=scale)


def _check(delta: Delta) -> None:
    """Raise ValueError where indices, biases or magnitudes do not fit the delta's shape."""
    if delta.bias is not None and delta.shape and len(delta.bias) != delta.shape[0]:
        raise ValueError(f"of shape {list(delta.shape)} has a bias of {len(delta.bias)}")
    if isinstance(delta, Sparse):
        numel = math.prod(delta.shape)
        if min(delta.shape) < 1 or (len(delta.index) and int(delta.index[-1]) >= numel):
            raise ValueError(f"changes entries beyond its {numel}")
    elif delta.magnitude is not None:
        if len(delta.shape) < 2:
            raise ValueError("has magnitudes, and a normalisation has no rows")
        per_row = delta.magnitude.ndim == 1
        sides, own = delta.shape, delta.magnitude.numel()
        # A flattened convolution has inputs x kernel as its second side; only the base tells how
        # many inputs those are, so here any divisor passes.
        if own != sides[0] if per_row else own < 1 or sides[1] % own:
            raise ValueError(f"of shape {list(sides)} has {own} magnitudes")
