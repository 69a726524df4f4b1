"""Which blocks listen to what? ``python -m tests.benchmarks.blocks``

The trial behind B-LoRA (Frenkel et al. 2024, arXiv 2403.14572, section 4.1): pictures of one
prompt, in which a single block's cross-attention is given another prompt. Judged is which prompt
each factor of the picture follows.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import compose
import studio
from studio.sketch import captions, judge
from studio.sketch import scenes as world

FACTORS = ("subject", "colour", "style", "place")


def main() -> None:
    """Print, for every block, the share of pictures that follow the prompt given to it alone."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.blocks", description=__doc__)
    parser.add_argument("--base", default="sketch", help="a base that knows the sketch world")
    parser.add_argument("--pictures", type=int, default=16, help="judged of each block")
    asked = parser.parse_args()
    base = studio.load_base(asked.base, device="cpu")
    pairs = [_pair(np.random.default_rng([24, number])) for number in range(asked.pictures)]
    table = Table("block", *FACTORS, title=f"{base.name}: follows what its block alone is told")
    for block in blocks(base.unet):
        pictures = [
            _drawn(base, block, scene, other, seed=number)
            for number, (scene, other) in enumerate(pairs)
        ]
        right = judge.share_right(pictures, [other for _, other in pairs])
        table.add_row(block, *(f"{right[factor]:.0%}" for factor in FACTORS))
    Console().print(table)


def blocks(unet: nn.Module) -> list[str]:
    """The parts of a UNet that hold cross-attention."""
    inside = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    return list(dict.fromkeys(name.partition(".transformer_blocks.")[0] for name in inside))


def _pair(rng: np.random.Generator) -> tuple[world.Scene, world.Scene]:
    """Two scenes that have nothing in common."""
    scene = world.sample(rng, bare=True)
    while True:
        other = world.sample(rng, bare=True)
        ours, theirs = judge.answers_of(scene), judge.answers_of(other)
        if all(ours[factor] != theirs[factor] for factor in FACTORS):
            return scene, other


def _drawn(base: studio.Base, block: str, scene: world.Scene, other: world.Scene, *, seed: int):
    with torch.no_grad():
        said = base.encode_text(["", captions.plain(other)]).hidden
    shot = studio.Shot(captions.plain(scene), base=base.source, seed=seed, steps=20, guidance=5.0)
    with told(base.unet.get_submodule(block), said):
        return compose.render(base, shot)


@contextmanager
def told(block: nn.Module, said: Tensor) -> Iterator[None]:
    """Inside, the block's cross-attention hears these embeddings [2, L, D] and no others."""

    def replace(_: nn.Module, args: Sequence, given: dict) -> tuple[Sequence, dict]:
        return args, given | {"encoder_hidden_states": said}

    attentions = [part for name, part in block.named_modules() if name.endswith("attn2")]
    hooks = [part.register_forward_pre_hook(replace, with_kwargs=True) for part in attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    main()
