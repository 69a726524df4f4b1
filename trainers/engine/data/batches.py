"""The order in which a training takes its pictures: endless batches, each of one bucket."""

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
    """The pictures of one batch, as indices of `Dataset.examples`."""

    pictures: tuple[int, ...]
    class_pictures: tuple[int, ...] = ()
    """pictures for prior preservation, which go through the base in a pass of their own"""


def training_batches(
    examples: Sequence[Example], class_examples: Sequence[Example], *, batch: int, seed: int
) -> Iterator[Batch]:
    """The batches of a training, without end."""
    pictures = _batches_of(examples, batch=batch, seed=seed, order="order")
    classes: Iterator[tuple[int, ...]] = repeat(())
    if class_examples:
        indices = _batches_of(class_examples, batch=batch, seed=seed, order="prior order")
        classes = (tuple(len(examples) + n for n in batch_) for batch_ in indices)
    return map(Batch, pictures, classes)


def _batches_of(
    examples: Sequence[Example], *, batch: int, seed: int, order: str
) -> Iterator[tuple[int, ...]]:
    buckets, weights = [e.bucket for e in examples], [e.weight for e in examples]
    return batches(buckets, batch=batch, seed=seed, weights=weights, order=order)


def batches(
    buckets: Sequence[Hashable],
    *,
    batch: int,
    seed: int,
    weights: Sequence[Fraction] | None = None,
    order: str = "order",
) -> Iterator[tuple[int, ...]]:
    """Endless batches of picture numbers.

    Every epoch shuffles the pictures anew, each as often as its weight says. A picture waits until
    its bucket has a full batch. So all batches are full and of one bucket, and among pictures of
    equal weight in a bucket, none is ever two epochs ahead of another.

    buckets: the bucket of each picture. weights: of each picture, above 0; default: 1.
    order: the purpose by which the random generators are named.
    """
    weights = weights or [Fraction(1)] * len(buckets)
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    epoch = 0
    while True:
        numbers = _epoch(weights, epoch)
        shuffled = torch.randperm(len(numbers), generator=generator_for(seed, order, epoch))
        for number in (numbers[index] for index in shuffled.tolist()):
            queue = waiting[buckets[number]]
            queue.append(number)
            if len(queue) == batch:
                yield tuple(queue)
                queue.clear()
        epoch += 1


def _epoch(weights: Sequence[Fraction], epoch: int) -> list[int]:
    """The numbers of an epoch's pictures, each as often as its weight says.

    After E epochs a picture of weight w has come E * w times, rounded up or down. With a weight
    below 1, each epoch has another part of the pictures of that weight.
    """
    totals = Counter(weights)
    before: Counter[Fraction] = Counter()
    numbers = []
    for number, weight in enumerate(weights):
        start = Fraction(before[weight], totals[weight])
        before[weight] += 1
        times = floor((epoch + 1) * weight + start) - floor(epoch * weight + start)
        numbers += [number] * times
    return numbers
