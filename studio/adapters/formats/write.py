"""What Studio's own file holds: deltas and embeddings as named tensors, and peft's configuration.

Source of the configuration: diffusers (loaders/lora_base.py).
"""

import json
from collections.abc import Mapping
from statistics import mode

from torch import Tensor

from studio.adapters.delta import Cayley, Delta, LowRank
from studio.adapters.formats.textual_inversion import BUNDLED, NAMES, OWN
from studio.adapters.token_embeddings import Embeddings
from studio.errors import BadInput


def own_tensors(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """The tensors of deltas in Studio's own file. Low-rank ones have peft's names."""
    return {
        f"{layer}.{leaf}": tensor
        for layer, delta in deltas.items()
        for leaf, tensor in delta.tensors().items()
    }


def embedding_tensors(embeddings: Embeddings, bundle: str = OWN) -> dict[str, Tensor]:
    """The tensors of learned words, to be stored beside an adapter's layers.

    Raises BadInput for a token that the names of other programs' bundles cannot hold.
    """
    cut = next((token for token in embeddings if "." in token), None)
    if bundle == BUNDLED and cut is not None:
        raise BadInput(
            f"the token {cut!r} has a dot in it, at which other tools would cut it: convert it to "
            "embedding instead, which is a file of its own"
        )
    return {
        f"{bundle}.{token}.{NAMES[name]}": rows.detach()
        for token, own in embeddings.items()
        for name, rows in own.items()
    }


def component_config(component: str, deltas: Mapping[str, Delta]) -> dict[str, object]:
    """peft's configuration of one component's deltas; empty where peft has none for them."""
    own = {
        # transformers 5 names CLIP's layers without `text_model`; peft matches the ends of names.
        layer.removeprefix(f"{component}.").removeprefix("text_model."): delta
        for layer, delta in sorted(deltas.items())
        if layer.startswith(f"{component}.")
    }
    if low := {path: delta for path, delta in own.items() if isinstance(delta, LowRank)}:
        return _lora_config(low)
    rotations = {path: delta for path, delta in own.items() if isinstance(delta, Cayley)}
    return _oft_config(rotations) if rotations else {}


def lora_metadata(deltas: Mapping[str, Delta]) -> str:
    """diffusers' `lora_adapter_metadata`: peft's configuration of each component, as JSON.

    "" where peft has no configuration of these deltas.
    """
    packed: dict[str, object] = {}
    for component in sorted({layer.partition(".")[0] for layer in deltas}):
        packed |= {f"{component}.{k}": v for k, v in component_config(component, deltas).items()}
    return json.dumps(packed, indent=2, sort_keys=True) if packed else ""


def _lora_config(deltas: Mapping[str, LowRank]) -> dict[str, object]:
    """peft's LoraConfig of one component's deltas, by module path."""
    stabilised = all(delta.rank_stabilised for delta in deltas.values())
    ranks = {path: delta.rank for path, delta in deltas.items()}
    alphas = {
        path: _number(delta.alpha if stabilised else delta.scale * delta.rank)
        for path, delta in deltas.items()
    }
    rank, alpha = mode(ranks.values()), mode(alphas.values())
    biased = any(delta.up_bias is not None for delta in deltas.values())
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {path: own for path, own in ranks.items() if own != rank},
        "alpha_pattern": {path: own for path, own in alphas.items() if own != alpha},
        "target_modules": sorted(deltas),
        "use_dora": any(delta.magnitude is not None for delta in deltas.values()),
        "use_rslora": stabilised,
        **({"lora_bias": True} if biased else {}),
    }


def _oft_config(deltas: Mapping[str, Cayley]) -> dict[str, object]:
    """peft's OFTConfig of one component's deltas, by module path. BadInput where they differ."""
    ways = {(delta.terms, delta.shared) for delta in deltas.values()}
    sizes = [delta.layout[1] for delta in deltas.values()]
    if len(ways) > 1:
        raise BadInput(
            "its layers make their rotations in different ways, which no file holds: join "
            "adapters that were made by one program"
        )
    ((terms, shared),) = ways
    return {
        "peft_type": "OFT",
        "peft_version": "0.18.0",  # the first whose series is the one in Cayley
        "r": 0,
        "oft_block_size": mode(sizes),
        "use_cayley_neumann": terms is not None,
        "num_cayley_neumann_terms": terms or 5,
        "block_share": shared,
        "target_modules": sorted(deltas),
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
