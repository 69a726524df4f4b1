"""Check the shapes and number types of the weights that an adapter changes, from its header alone.

A file of a kilobyte can describe a product of terabytes, so sizes are limited before any tensor is
read or multiplied.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.adapters.safetensors_header import Header
from studio.errors import BadInput

Shape = tuple[int, ...]

LARGEST_LAYER = 2**25  # numbers; SDXL's largest, a convolution, has 2560 x 1280 x 3 x 3
LARGEST_ADAPTER = 2**32  # numbers; all layers of SDXL and its text encoders have 3.4e9
# The middle tensors of Tucker forms, [rank, rank, kernel]: a matrix multiplies each of the ranks.
CORES = ("lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2")
# Tensors that may hold whole numbers.
WHOLE = {"sparse_gaps", "sparse_shape", "lokr_rows_swapped", "alpha", "oft_R.scaled_oft"}


@dataclass(frozen=True)
class Blocks:
    """The matrices of a rotation: `count` of them, `size` x `size`. See Rotation."""

    count: int
    size: int
    of_inputs: bool
    shared: bool

    def fit(self, weight: Shape) -> bool:
        """Whether the blocks make up the outputs, or inputs, of a weight of this shape."""
        if len(weight) < 2:
            return False
        side = weight[1 if self.of_inputs else 0]
        return side % self.size == 0 if self.shared else side == self.count * self.size


def rotation_blocks(shapes: Mapping[str, Shape], *, block_share: bool) -> Blocks:
    """The blocks of a layer's OFT. block_share: peft's option, which only its files heed.

    Raises ValueError where a block's numbers are no triangle of a square matrix, or where there are
    not as many scales as outputs.
    """
    if "oft_R.weight" in shapes:  # the upper triangles of skew matrices
        count, numbers = shapes["oft_R.weight"]
        size = (1 + math.isqrt(1 + 8 * numbers)) // 2
        if size * (size - 1) // 2 != numbers:
            raise ValueError(f"has {numbers} numbers in a block, which is no triangle of a square")
        return Blocks(count, size, of_inputs=True, shared=block_share)
    name = next(leaf for leaf in shapes if leaf.startswith(("oft_blocks", "rotation_")))
    count, size, _ = shapes[name]
    if (scales := math.prod(shapes.get("rescale", (count * size,)))) != count * size:
        raise ValueError(f"has {scales} scales for its blocks")
    return Blocks(count, size, of_inputs="_in" in name, shared=name.endswith("_shared"))


def check_cores(layer: str, shapes: Mapping[str, Shape], weight: Shape, path: Path) -> None:
    """Raise BadInput where a middle tensor would make a larger product than its layer's weight."""
    for name in CORES:
        if name in shapes:
            ranks, kernel = shapes[name][:2], shapes[name][2:]
            # Intermediate products have a rank in place of a side of the weight.
            check_size(layer, (*map(max, ranks, weight), *kernel), path)


def check_sizes(weights: Mapping[str, Shape], path: Path) -> None:
    """Raise BadInput where one weight, or all together, are larger than Stable Diffusion's."""
    for layer, shape in weights.items():
        check_size(layer, shape, path)
    if (total := sum(map(math.prod, weights.values()))) > LARGEST_ADAPTER:
        raise BadInput(
            f"{path} changes {total:,} numbers of a base, more than SDXL has: "
            "it was made for another model, or made to fill the memory"
        )


def check_size(layer: str, shape: Shape, path: Path) -> None:
    """Raise BadInput for a weight of more numbers than the largest layer of SDXL has."""
    if math.prod(shape) > LARGEST_LAYER:
        raise BadInput(
            f"{path} changes {layer} by {' x '.join(map(str, shape))} numbers, more than any "
            "layer of SDXL has: it was made for another model, or made to fill the memory"
        )


def check_dtypes(leaves: Mapping[str, str], header: Header, path: Path) -> None:
    """Raise BadInput for a tensor of whole numbers where floating-point numbers are needed.

    leaves: the keys of a layer's tensors, or of a word's embeddings.
    """
    for leaf, key in leaves.items():
        dtype = header.dtypes[key]
        if leaf not in WHOLE and "F" not in dtype:
            raise BadInput(
                f"{path} holds {key} of whole numbers ({dtype}), and Studio reads fractions only "
                "(F16, BF16, F32): save the adapter so"
            )
