"""Estimate how much a training writes to the disk."""

from collections.abc import Sequence

from torch import nn

from studio.requests.recipe import Recipe
from trainers.engine.data.dataset import Dataset
from trainers.engine.optimizers import state_bytes

CLASS_PICTURE = 3  # bytes of a pixel in a PNG, at most
CACHED_LATENT = 2 * 4 * 4  # bytes: mean and standard deviation of 4 channels in float32


def disk_bytes(
    dataset: Dataset, trained: Sequence[nn.Module], recipe: Recipe, *, latent_factor: int
) -> int:
    """Bytes that the run will write, roughly: adapter, checkpoints, class pictures and cache."""
    parameters = [p for module in trained for p in module.parameters()]
    adapter = 4 * sum(p.numel() for p in parameters)
    checkpoint = adapter * (3 if recipe.ema else 2) + state_bytes(recipe.optimizer, parameters)
    written = 2 * adapter + _checkpoints(recipe) * checkpoint
    pixels = sum(width * height for width, height in (e.bucket for e in dataset.examples))
    if prior := dataset.prior:
        missing = prior.missing(dataset.class_pictures) * prior.size**2
        pixels, written = pixels + missing, written + CLASS_PICTURE * missing
    if recipe.cache == "disk":
        variants = recipe.crops * (2 if recipe.flip else 1)
        written += CACHED_LATENT * variants * pixels // latent_factor**2
    return written


def _checkpoints(recipe: Recipe) -> int:
    """The most checkpoints that are on the disk at a time."""
    count = 1 + (recipe.steps // recipe.save_every if recipe.save_every else 0)
    # The oldest is deleted only after the newest is written.
    return min(count, recipe.keep + 1) if recipe.keep else count
