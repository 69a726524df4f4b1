"""The order in which pictures are learned from: batches of one bucket each, without end."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from math import floor

import torch

from studio.dataset.pictures import Example
from trainers.engine.data.randomness import generator_for


@dataclass(frozen=True)
class Batch:
    """Numbers of the pictures that one loss is the mean of; class pictures count on from them."""

    pictures: tuple[int, ...]
    class_pictures: tuple[int, ...] = ()
    """those of prior preservation, which go through the base by themselves"""


def training_batches(
    examples: Sequence[Example], class_examples: Sequence[Example], *, batch: int, seed: int
) -> Iterator[Batch]:
    """The batches of a training, without end."""
    pictures = _batches_of(examples, batch=batch, seed=seed, order="order")
    classes: Iterator[tuple[int, ...]] = repeat(())
    if class_examples:
        numbers = _batches_of(class_examples, batch=batch, seed=seed, order="prior order")
        classes = (tuple(len(examples) + n for n in one) for one in numbers)
    return map(Batch, pictures, classes)


def _batches_of(
    examples: Sequence[Example], *, batch: int, seed: int, order: str
) -> Iterator[tuple[int, ...]]:
    buckets, weights = [one.bucket for one in examples], [one.weight for one in examples]
    return batches(buckets, batch=batch, seed=seed, weights=weights, order=order)


def batches(
    buckets: Sequence[Hashable],
    *,
    batch: int,
    seed: int,
    weights: Sequence[Fraction] | None = None,
    order: str = "order",
) -> Iterator[tuple[int, ...]]:
    """Batches of picture numbers, without end; buckets[n] is picture n's.

    Every epoch shuffles the pictures anew, each as often as its weight says; each waits until its
    bucket has a full batch. So all batches are full and of one bucket, and of equal weights no
    picture is ever two epochs ahead of another of its bucket.

    weights: above 0; 1 for all when not given. order: the purpose that the generators are named by.
    """
    weights = weights or [Fraction(1)] * len(buckets)
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    epoch = 0
    while True:
        coming = _epoch(weights, epoch)
        shuffled = torch.randperm(len(coming), generator=generator_for(seed, order, epoch))
        for number in (coming[at] for at in shuffled.tolist()):
            queue = waiting[buckets[number]]
            queue.append(number)
            if len(queue) == batch:
                yield tuple(queue)
                queue.clear()
        epoch += 1


def _epoch(weights: Sequence[Fraction], epoch: int) -> list[int]:
    """The numbers of the pictures of an epoch, each as often as is due.

    After E epochs a picture of weight w has come E * w times, rounded up or down; with a weight
    below 1 every epoch has another part of the pictures.
    """
    alike = Counter(weights)
    before: Counter[Fraction] = Counter()
    coming = []
    for number, weight in enumerate(weights):
        start = Fraction(before[weight], alike[weight])
        before[weight] += 1
        times = floor((epoch + 1) * weight + start) - floor(epoch * weight + start)
        coming += [number] * times
    return coming
