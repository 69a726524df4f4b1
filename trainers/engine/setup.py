"""Prepare one training: read what it learns from, make its deltas, and check everything."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from PIL.Image import Image
from torch import nn

from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta
from studio.adapters.delta.timed import TimedLowRank
from studio.bases.base import Base
from studio.bases.prompts import PromptReading
from studio.dataset.pictures import Pictures
from studio.errors import BadInput
from studio.files import check_writable
from studio.json_value import JSON
from studio.requests.recipe import Recipe
from studio.requests.training import Recorded, TrainingRequest
from trainers.engine.data.cache import Cache
from trainers.engine.data.dataset import Dataset, read_dataset
from trainers.engine.data.prior_preservation import PRIOR_FOLDER, prior_of
from trainers.engine.data.randomness import generator_for
from trainers.engine.estimate.disk_space import disk_bytes
from trainers.engine.from_prompts.alignment import Alignment
from trainers.engine.from_prompts.distillation import Distillation
from trainers.engine.from_prompts.mixed import Mixed, read_mixed
from trainers.engine.from_prompts.prompt_kind import PromptKind
from trainers.engine.kind import Kind, kind_name, new_deltas, options_of
from trainers.engine.optimizers import check_optimizer, parameter_groups
from trainers.engine.progress import Started
from trainers.engine.resolve import check_unused
from trainers.engine.run.folder import Run, check_free_space
from trainers.engine.run.tensorboard import check_tensorboard
from trainers.engine.starts import plain
from trainers.engine.text_encoders import TOKEN, new_embeddings, new_tokens
from trainers.engine.warm_start import WarmStart, start_from

DRAWN = 4  # how many of its prompts a training without pictures draws as samples
WEIGHT = re.compile(r"\([^()]+:\s*[.\d]+\s*\)")
Renderer = Callable[[str, int], Image]
"""Draws a prompt with a seed, on the base with the current deltas."""


@dataclass(frozen=True, eq=False)
class PreparedTraining:
    """A training that can start; `prepare_training` makes one."""

    kind: Kind
    base: Base
    request: TrainingRequest
    recipe: Recipe
    run: Run
    draw: Renderer | None
    dataset: Dataset
    deltas: dict[str, Delta]
    embeddings: dict[str, dict[str, nn.Parameter]]  # by token and text encoder: [n, width]
    resumed: bool = False
    checkpoint: Path | None = None
    """the checkpoint from which a resumed run goes on; None where it has none yet"""
    warm_start: WarmStart | None = None
    mixed: Mixed = field(default_factory=Mixed)
    """for a kind that learns from prompts, the adapters that are merged into the base"""

    @property
    def from_prompts(self) -> bool:
        """Whether the kind learns from prompts, not from pictures."""
        return isinstance(self.kind, PromptKind)

    @property
    def examples_sha256(self) -> str:
        """One SHA-256 for everything that the training learns from."""
        mixed = [f"{file} {strength:g}" for file, strength in self.mixed.files]
        own = self.dataset.pictures.sha256
        return sha256("\n".join([own, *mixed]).encode()).hexdigest() if mixed else own

    @property
    def trained(self) -> dict[str, nn.Module]:
        """All modules that learn: deltas by layer, new words by `TOKEN` and the word."""
        tokens = {f"{TOKEN}{word}": nn.ParameterDict(own) for word, own in self.embeddings.items()}
        return {**self.deltas, **tokens}

    @property
    def trains_text(self) -> bool:
        """Whether the embeddings of captions change, so that they cannot be cached."""
        return any(not name.startswith("unet.") for name in self.trained)

    @cached_property
    def pieces(self) -> int:
        """The number of pieces that every caption is encoded in: as many as the longest needs.

        It is one number for all, so that a caption's embeddings do not depend on its batch.
        """
        with self.base.use_embeddings({**self.mixed.words, **self.embeddings}):
            return self.base.count_pieces(self._captions(), self.recipe.caption_syntax)

    def _captions(self) -> list[str]:
        return list(dict.fromkeys(example.caption for example in self.dataset.examples))

    @property
    def precision(self) -> str:
        """The precision in which the base computes: fp32, bf16 or fp16."""
        precision = self.recipe.precision
        return self.base.precision if precision == "auto" else precision

    def check(self) -> None:
        """Raise BadInput for whatever would fail only after the training has started."""
        if self.precision == "fp16" and self.base.device.type == "cpu":
            raise BadInput("fp16 trains on a GPU only: choose the precision fp32 or bf16")
        if self.precision == "fp32" and self.base.dtype != torch.float32:
            raise BadInput("the base is in half precision: load it in float32 to train in fp32")
        if self.trains_text and self.base.offload:
            raise BadInput(
                "offload moves the text encoders away before they have learned from a step: load "
                "the base without offload, or do not train text encoders and new words"
            )
        self.base.check_clip_skip(self.recipe.clip_skip)
        _ = self.pieces  # raises BadInput for a caption that can't be read
        check_optimizer(self.recipe.optimizer)
        check_tensorboard(self.recipe)
        parameter_groups(self.trained, self.recipe)
        check_writable(self.run.recipe)
        if self.request.out:
            self.run.check_out(self.request.out)
        bytes_ = disk_bytes(
            self.dataset,
            list(self.trained.values()),
            self.recipe,
            latent_factor=self.base.latent_factor,
        )
        check_free_space(self.run.folder, bytes_)

    def check_as_prepared(self) -> None:
        """Raise BadInput where another process has trained in the run's folder meanwhile.

        Call it after the folder is locked.
        """
        if not self.resumed:
            self.run.check_new()
        elif self.run.adapter.exists() or self.run.last_checkpoint() != self.checkpoint:
            raise BadInput(f"{self.run.folder} was trained further meanwhile: resume it again")

    def moved_to(self, run: Run) -> "PreparedTraining":
        """The same training in another run's folder, which is new."""
        prior, dataset = self.dataset.prior, self.dataset
        if run == self.run:
            return self
        if prior and prior.folder == self.run.folder / PRIOR_FOLDER:
            prior = replace(prior, folder=run.folder / PRIOR_FOLDER)
            dataset = replace(dataset, prior=prior, class_pictures=prior.read())
        return replace(self, run=run, dataset=dataset)

    def begin(self) -> Started:
        """Write the run's recipe, unless it is there, and return the first event."""
        if not self.run.recipe.exists():
            self.run.create(self._settled_request())
        examples = self.dataset.pictures.examples
        return Started(
            run=self.run.folder,
            layers=len(self.deltas),
            parameters=sum(p.numel() for m in self.trained.values() for p in m.parameters()),
            examples=len(examples),
            unit="prompt" if self.from_prompts else "picture",
            round=float(sum(example.weight for example in examples)),
            skipped=self.dataset.pictures.skipped + self.dataset.class_pictures.skipped,
            steps=self.recipe.steps,
            done=int(self.checkpoint.name[5:]) if self.checkpoint else 0,
            remarks=(*self.dataset.remarks(), *self.recipe.remarks(), *self._remarks()),
        )

    def _remarks(self) -> tuple[str, ...]:
        remarks = [self.run.read_log().remark, *self._remarks_on_adapters()]
        remarks += [self._remark_on_captions(), self._remark_on_prompts()]
        return tuple(remark for remark in remarks if remark)

    def _remarks_on_adapters(self) -> Iterator[str]:
        """What is not taken over from the first adapter, and what merged adapters can't do."""
        if first := self.warm_start:
            if first.fresh:
                layers = f"{first.fresh} of {len(self.deltas)} layers"
                yield f"{layers} are not in the first adapter and start afresh."
            if first.words:
                yield f"The first adapter's new words are not taken over: {', '.join(first.words)}."
        for adapter, _ in self.mixed.adapters:
            if adapter.rank_schedule:
                yield f"{adapter.path} is a T-LoRA: merged, all its ranks act at every noise level."

    def _remark_on_captions(self) -> str:
        """A sentence where captions are cut, hold weights, or make every step slower."""
        captions, syntax = self._captions(), self.recipe.caption_syntax
        if syntax == "cut" and (left_out := self.base.cut_tokens(captions)):
            return f"The last {left_out} tokens of the longest caption are left out (syntax cut)."
        if syntax == "plain" and any(map(WEIGHT.search, captions)):
            return "Weights in captions, as in (red:1.2), are words: caption_syntax is plain."
        if self.pieces > 1:
            return f"The longest caption has {self.pieces} pieces, so all are encoded in as many."
        return ""

    def _remark_on_prompts(self) -> str:
        """A sentence where an alignment draws fewer pictures than the user has prompts."""
        given = len(self.dataset.examples) if self.request.prompts else 0
        if isinstance(self.kind, Alignment) and self.kind.pictures < given:
            return f"Only {self.kind.pictures} of {given} prompts are drawn: raise pictures."
        return ""

    def new_cache(self) -> Cache:
        """An empty cache in memory, or the one on disk beside the run's folder."""
        return Cache(
            self.base,
            () if self.from_prompts else self.dataset.examples,
            crops=self.recipe.crops,
            flip=self.recipe.flip,
            background=self.recipe.background,
            folder=self.run.folder.parent / "cache" if self.recipe.cache == "disk" else None,
            reading=PromptReading(self.recipe.caption_syntax, self.recipe.clip_skip),
            pieces=self.pieces,
        )

    def captions_to_cache(self) -> list[str]:
        """The captions to encode before the first step; none where the text encoders learn."""
        if self.trains_text:
            return []
        empty = [""] if self.recipe.caption_dropout or self.from_prompts else []
        return [example.caption for example in self.dataset.examples] + empty

    def sample_prompts(self) -> tuple[str, ...]:
        """The prompts of the samples."""
        captions = self._captions()[:DRAWN] if self.from_prompts else [self.request.trigger]
        return self.recipe.sample_prompts or tuple(captions)

    def adapter(self, *, steps: int) -> Adapter:
        """The current deltas as an adapter. steps: how many it has learned."""
        prompts = list(self.recipe.sample_prompts)
        return Adapter(
            deltas=plain(self.deltas),
            kind=kind_name(self.kind),
            family=self.base.family,
            base=self.base.name,
            fingerprint=self.base.fingerprint(),
            triggers=(self.request.trigger,) if self.request.trigger else (),
            rank_schedule=next(
                (d.schedule for d in self.deltas.values() if isinstance(d, TimedLowRank)), None
            ),
            embeddings={
                token: {name: rows.detach() for name, rows in own.items()}
                for token, own in self.embeddings.items()
            },
            # Nothing here may depend on place or time: equal trainings give equal bytes.
            recipe={
                "kind": kind_name(self.kind),
                "options": options_of(self.kind, private=False),
                "training": cast(JSON, self._plain_recipe() | {"sample_prompts": prompts}),
                **self._without_pictures(),
                **self.base.stored,
                "examples": len(self.dataset.pictures.examples),
                "steps": steps,
                **({"init": self.warm_start.sha256} if self.warm_start else {}),
            },
        )

    def _settled_request(self) -> TrainingRequest:
        """The request for recipe.toml, with every value that the base or the kind has set."""
        base, first, out = self.base, self.warm_start, self.request.out
        recorded = Recorded(
            base=base.source,
            fingerprint=base.fingerprint(),
            prediction=base.prediction_type,
            examples=self.examples_sha256,
            init_sha256=first.sha256 if first else None,
            torch=torch.__version__,
        )
        return replace(
            self.request,
            base=base.source,
            loading={
                "dtype": base.precision,
                **base.stored,
                "prediction": base.prediction_type,
                **({"vae": base.vae_source} if base.vae_source else {}),
            },
            prior_pictures=self._users_prior_folder(),
            adapters=tuple((os.path.abspath(file), s) for file, s in self.request.adapters),
            init=first.source if first else None,
            out=out.resolve() if out else None,
            options=options_of(self.kind),
            recipe=self._plain_recipe(),
            recorded=recorded,
        )

    def _plain_recipe(self) -> dict[str, Any]:
        """The recipe's fields, without those that this kind does not use."""
        unused = self.kind.unused
        return {name: value for name, value in asdict(self.recipe).items() if name not in unused}

    def _without_pictures(self) -> dict[str, JSON]:
        """The merged adapters and the sampling of a kind that learns from prompts."""
        if not self.from_prompts:
            return {}
        mixed = cast(JSON, [[sha256, strength] for sha256, strength in self.mixed.files])
        if isinstance(self.kind, Distillation):
            return {"sampling": self.kind.sampling.as_json(), "adapters": mixed}
        return {"adapters": mixed}

    def _users_prior_folder(self) -> Path | None:
        """The folder of the class pictures; None for the run's own, which may be moved."""
        prior = self.dataset.prior
        if prior is None or prior.folder == self.run.folder / PRIOR_FOLDER:
            return None
        return prior.folder.resolve()


def prepare_training(
    request: TrainingRequest,
    base: Base,
    *,
    kind: Kind,
    recipe: Recipe,
    run: Run,
    draw: Renderer | None,
    pictures: Pictures | None = None,
) -> PreparedTraining:
    """Read the pictures, make the deltas, and check everything that can be known by now.

    pictures: the request's pictures, where they were read already. Raises BadInput.
    """
    init = request.init
    check_unused(kind, recipe)
    size, step = recipe.size or base.size, base.step
    dataset = read_dataset(
        request,
        kind,
        recipe,
        prior_of(recipe, request.prior_pictures, run=run.folder, size=size, step=step),
        size=size,
        step=step,
        can_draw=draw is not None,
        pictures=pictures,
    )
    kind = kind.for_base(base)
    deltas = _deltas_on_device(kind, base, recipe)
    training = PreparedTraining(
        kind=kind,
        base=base,
        request=request,
        recipe=recipe,
        run=run,
        draw=draw,
        dataset=dataset,
        deltas=deltas,
        embeddings=new_embeddings(
            base,
            new_tokens(request.trigger, recipe),
            recipe,
            [example.caption for example in dataset.pictures.examples],
            generator=generator_for(recipe.seed, "tokens"),
        ),
        warm_start=start_from(init, deltas, base, kind_name(kind)) if init else None,
        mixed=read_mixed(request.adapters, base),
    )
    training.check()
    return training


def _deltas_on_device(kind: Kind, base: Base, recipe: Recipe) -> dict[str, Delta]:
    generator = generator_for(recipe.seed, "start")
    deltas = new_deltas(
        kind,
        base,
        generator=generator,
        text_encoders=recipe.text_encoders,
        clip_skip=recipe.clip_skip,
    )
    for delta in deltas.values():
        delta.to(base.device)
    return deltas
