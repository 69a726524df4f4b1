"""One training, checked and ready: what is trained on what, how, and where it is kept."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from PIL.Image import Image
from torch import nn

from studio.adapters.adapter import JSON, Adapter
from studio.adapters.delta import Delta
from studio.bases.base import Base
from studio.dataset.folders import Folder
from studio.dataset.pictures import Example, Pictures
from studio.errors import BadInput
from studio.files import file_sha256
from studio.requests.recipe import Recipe
from trainers.engine.data.cache import Cache
from trainers.engine.data.order import contents, folders_table, read
from trainers.engine.data.prior_preservation import OWN, Prior, prior_of
from trainers.engine.kind import Kind, fitted, kind_name, kind_options, new_deltas
from trainers.engine.objective import generator_for
from trainers.engine.optimizers import parameter_groups, require_optimizer, state_bytes
from trainers.engine.progress import Started
from trainers.engine.recipe.toml_text import Table
from trainers.engine.run_folder import Run, require_adapter, require_place, require_space
from trainers.engine.tensorboard import require_board
from trainers.engine.text_encoders import TOKEN, new_embeddings, new_tokens
from trainers.engine.warm_start import Initial, start_from

__all__ = ["Job", "Renderer", "new_job"]

Renderer = Callable[[str, int], Image]
"""Draws a prompt with a seed on the base as it stands, the deltas attached."""


@dataclass(frozen=True, eq=False)
class Job:
    """A training that can start; `new_job` makes one."""

    kind: Kind
    base: Base
    folders: tuple[Folder, ...]
    trigger: str
    recipe: Recipe
    run: Run
    out: Path | None
    draw: Renderer | None
    pictures: Pictures
    digests: tuple[str, ...]  # SHA-256 of each example's file
    deltas: dict[str, Delta]
    embeddings: dict[str, dict[str, nn.Parameter]]  # by token and text encoder: [n, width]
    prior: Prior | None
    classes: Pictures  # the prior's; all of them once those missing are drawn
    class_digests: tuple[str, ...] = ()
    checkpoint: Path | None = None
    initial: Initial | None = None

    @property
    def trained(self) -> dict[str, nn.Module]:
        """All that learns, by name: the deltas by their layers, new words behind `TOKEN`."""
        words = {f"{TOKEN}{token}": nn.ParameterDict(own) for token, own in self.embeddings.items()}
        return {**self.deltas, **words}

    @property
    def reads(self) -> bool:
        """Whether what the text encoders say changes, so that no caption can be kept encoded."""
        return any(not name.startswith("unet.") for name in self.trained)

    @property
    def precision(self) -> str:
        """What the base computes in: fp32, bf16 or fp16."""
        asked = self.recipe.precision
        return self.base.precision if asked == "auto" else asked

    @property
    def contents(self) -> str:
        """One SHA-256 for the pictures and all that is known of them; the prior's are apart."""
        return contents(self.pictures.examples, self.digests)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The pictures and behind them the prior's, as batches number them."""
        return self.pictures.examples + self.classes.examples

    def check(self) -> None:
        """BadInput for what would only fail after the training has started."""
        if self.precision == "fp16" and self.base.device.type == "cpu":
            raise BadInput("fp16 trains on a GPU only: choose the precision fp32 or bf16")
        if self.precision == "fp32" and self.base.dtype != torch.float32:
            raise BadInput("the base is in half precision: load it in float32 to train in fp32")
        if self.reads and self.base.offload:
            raise BadInput(
                "offload puts the text encoders away before they have learned from a step: load "
                "the base without it, or leave them as they are"
            )
        require_optimizer(self.recipe.optimizer)
        require_board(self.recipe)
        parameter_groups(self.trained, self.recipe)
        require_place(self.run.recipe)
        if self.out:
            require_adapter(self.out)
        require_space(self.run.folder, self._bytes())

    def begin(self) -> Started:
        """Write the run's recipe, unless it is resumed."""
        if not self.run.recipe.exists():
            self.run.create(self._tables())
        return Started(
            run=self.run.folder,
            layers=len(self.deltas),
            parameters=self._parameters(),
            examples=len(self.pictures.examples),
            round=float(sum(example.weight for example in self.pictures.examples)),
            skipped=self.pictures.skipped + self.classes.skipped,
            steps=self.recipe.steps,
            done=int(self.checkpoint.name[5:]) if self.checkpoint else 0,
            remarks=self._remarks(),
        )

    def _remarks(self) -> tuple[str, ...]:
        fresh = self.initial.fresh if self.initial else 0
        said = (
            f"{fresh} of {len(self.deltas)} layers are not in the first adapter and start afresh."
        )
        return (*self.recipe.remarks(), said) if fresh else self.recipe.remarks()

    def cache(self) -> Cache:
        """An empty cache in memory, or the one beside the run's folder with what it holds."""
        return Cache(
            self.base,
            self.examples,
            self.digests + self.class_digests,
            crops=self.recipe.crops,
            flip=self.recipe.flip,
            folder=self.run.folder.parent / "cache" if self.recipe.cache == "disk" else None,
        )

    def captions(self) -> list[str]:
        """All captions that a step may want encoded beforehand."""
        if self.reads:
            return []
        empty = [""] if self.recipe.caption_dropout else []
        return [example.caption for example in self.examples] + empty

    def prompts(self) -> tuple[str, ...]:
        """What the sample pictures are to show."""
        return self.recipe.sample_prompts or (self.trigger,)

    def adapter(self, *, steps: int) -> Adapter:
        """The deltas as they are now, as an adapter of so many steps."""
        return Adapter(
            deltas=self.deltas,
            kind=kind_name(self.kind),
            family=self.base.family,
            base=self.base.name,
            fingerprint=self.base.fingerprint(),
            triggers=(self.trigger,),
            embeddings={
                token: {name: rows.detach() for name, rows in own.items()}
                for token, own in self.embeddings.items()
            },
            # Nothing here may depend on where or when: equal trainings give equal bytes.
            recipe={
                "kind": kind_name(self.kind),
                "options": dict(kind_options(self.kind)),
                "training": cast(JSON, _plain(self.recipe)),
                "examples": len(self.pictures.examples),
                "steps": steps,
                **({"init": self.initial.sha256} if self.initial else {}),
            },
        )

    def _tables(self) -> dict[str, Table]:
        head = {
            "kind": kind_name(self.kind),
            "trigger": self.trigger,
            **folders_table(self.folders),
            "prior_pictures": self._prior_elsewhere(),
            "init": self.initial.source if self.initial else None,
            "init_sha256": self.initial.sha256 if self.initial else None,
            "base": self.base.source,
            "fingerprint": self.base.fingerprint(),
            "dtype": self.base.precision,
            "prediction": self.base.prediction_type,
            "examples": self.contents,
            "out": str(self.out.resolve()) if self.out else None,
            "torch": torch.__version__,
        }
        return {"": head, "options": kind_options(self.kind), "recipe": _plain(self.recipe)}

    def _prior_elsewhere(self) -> str | None:
        """The folder of the class pictures, if it is not the run's own, which may be moved."""
        if self.prior is None or self.prior.folder == self.run.folder / OWN:
            return None
        return str(self.prior.folder.resolve())

    def _parameters(self) -> int:
        return sum(p.numel() for module in self.trained.values() for p in module.parameters())

    def _bytes(self) -> int:
        """What the run will write, roughly."""
        parameters = [p for module in self.trained.values() for p in module.parameters()]
        adapter = 4 * self._parameters()
        checkpoint = adapter * (3 if self.recipe.ema else 2)
        checkpoint += state_bytes(self.recipe.optimizer, parameters)
        every = self.recipe.save_every
        checkpoints = 1 + (self.recipe.steps // every if every else 0)
        if self.recipe.keep:
            checkpoints = min(checkpoints, self.recipe.keep + 1)  # the old go when the new is whole
        written = 2 * adapter + checkpoints * checkpoint
        area = sum(width * height for width, height in (e.bucket for e in self.examples))
        if self.prior:
            missing = self.prior.missing(self.classes) * self.prior.size**2
            area, written = area + missing, written + 3 * missing
        if self.recipe.cache == "disk":
            variants = self.recipe.crops * (2 if self.recipe.flip else 1)
            written += 2 * 4 * 4 * variants * area // self.base.latent_factor**2
        return written


def new_job(
    kind: Kind,
    base: Base,
    folders: tuple[Folder, ...],
    *,
    trigger: str,
    prior_pictures: Path | None,
    init: str | Path | None,
    recipe: Recipe,
    run: Run,
    out: Path | None,
    draw: Renderer | None,
) -> Job:
    """Read the pictures, make the deltas and check all that can be known before the first step."""
    size = recipe.size or base.size
    pictures = read(folders, trigger=trigger, recipe=recipe, size=size, step=base.step)
    prior = prior_of(recipe, prior_pictures, run=run.folder, size=size, step=base.step)
    kind = fitted(kind, base)
    deltas = new_deltas(
        kind,
        base,
        generator=generator_for(recipe.seed, "start"),
        text_encoders=recipe.text_encoders,
    )
    for delta in deltas.values():
        delta.to(base.device)
    initial = start_from(init, deltas, base, kind_name(kind)) if init else None
    job = Job(
        kind=kind,
        base=base,
        folders=folders,
        trigger=trigger,
        recipe=recipe,
        run=run,
        out=out,
        draw=draw,
        pictures=pictures,
        digests=tuple(file_sha256(example.path) for example in pictures.examples),
        deltas=deltas,
        prior=prior,
        classes=prior.check(drawing=draw is not None) if prior else Pictures((), ()),
        embeddings=new_embeddings(
            base,
            new_tokens(trigger, recipe),
            recipe,
            [example.caption for example in pictures.examples],
            generator=generator_for(recipe.seed, "tokens"),
        ),
        initial=initial,
    )
    job.check()
    return job


def _plain(recipe: Recipe) -> dict[str, str | int | float | bool | list[str] | None]:
    return asdict(recipe) | {"sample_prompts": list(recipe.sample_prompts)}
