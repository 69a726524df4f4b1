"""The one optimisation loop: every kind is trained here, on accelerate, as a generator.

The base is lent: its weights are frozen, the deltas are attached beside them for as long as the
generator runs, and when it ends or is closed the base is as it was. What a step draws depends on
the seed and on the step's number alone (trainers/engine/objective.py), so a run that was stopped
and resumed gives the very numbers of one that was not.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isfinite
from time import perf_counter

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL.Image import Image
from torch import Tensor

from studio.adapters.adapter import Adapter
from studio.adapters.delta import attach, detached
from studio.adapters.token_embeddings import use_embeddings
from studio.bases.base import Base, TextEmbedding
from studio.errors import BadInput
from trainers.engine.data.cache import Cache
from trainers.engine.data.order import Batch, planned
from trainers.engine.data.prior_preservation import with_class
from trainers.engine.distributed import Together, together
from trainers.engine.ema import Average
from trainers.engine.estimate.step_times import note, settings_of
from trainers.engine.kind import Adjusting, Penalising, Turn, Turning
from trainers.engine.objective import Chance, Objective, Window, generator_for, toss, window
from trainers.engine.optimizers import new_optimizer, parameter_groups, start_afresh
from trainers.engine.progress import Encoded, Finished, Progress, Sampled, Saved, Step
from trainers.engine.run_folder import Log, State, full_disk
from trainers.engine.setup import Job
from trainers.engine.tensorboard import shown
from trainers.engine.text_encoders import read_captions

__all__ = ["Training", "run_job"]


def run_job(job: Job) -> Generator[Progress, None, None]:
    """Do a training from where it stands to its end; a checkpoint is written when it is left."""
    with full_disk(job.run), _lent(job.base, checkpointing=job.recipe.checkpointing):
        recipe = job.recipe
        group = together(job.base.device, pictures=recipe.batch * recipe.accumulation)
        group.wait()  # all have looked for a free folder
        with group.first_first():
            yield job.begin()
            job = yield from with_class(job)
        cache = job.cache()
        for done, total in cache.fill(job.captions()):
            yield Encoded(done, total)
        training = Training(job, cache, group)
        log = Log(job.run.log, keep=training.done) if group.first else None
        worn = attach(job.base.layers(), job.deltas)
        with closing(log) if log else nullcontext(), worn, use_embeddings(job.base, job.embeddings):
            steps = _steps(job, training, log)
            yield from shown(training, steps) if group.first else steps


def _steps(job: Job, training: "Training", log: Log | None) -> Generator[Progress, None, None]:
    recipe, saved = job.recipe, training.done
    plan = islice(planned(job), training.done * recipe.accumulation, None)
    try:
        while training.done < recipe.steps:
            step = training.take(list(islice(plan, recipe.accumulation)))
            if log:
                log.write(
                    {"step": step.step, "loss": step.loss, "lr": step.lr, "seconds": step.seconds}
                )
            yield step
            if step.step == recipe.steps:
                break
            if not training.group.first:
                continue
            if recipe.sample_every and step.step % recipe.sample_every == 0 and job.draw:
                yield training.sample()
            if recipe.save_every and step.step % recipe.save_every == 0:
                saved = step.step
                yield training.save()
        if job.draw and training.group.first:
            yield training.sample()  # the first of them is the adapter's preview
        finished = training.finish()
        saved = training.done
        yield finished
    finally:
        if training.sound and training.done > saved and training.group.first:
            training.save()
        if training.group.first:
            training.note()


class Training:
    """What the steps of one training share and change."""

    def __init__(self, job: Job, cache: Cache, group: Together) -> None:
        self.group = group
        self.job, self.cache, self.base, self.recipe = job, cache, job.base, job.recipe
        self.accelerator = _accelerator(self.base, job.precision)
        groups = parameter_groups(job.trained, self.recipe)
        self.parameters = [p for group in groups for p in group["params"]]
        optimizer = new_optimizer(groups, self.recipe, scaled=job.precision == "fp16")
        self.optimizer = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        self.average = Average(job.trained, self.recipe.ema) if self.recipe.ema else None
        self.objective = Objective(
            self.base.alphas_cumprod,
            prediction_type=self.base.prediction_type,
            min_snr=self.recipe.min_snr,
            device=self.base.device,
        )
        self.state = State(
            job.trained,
            optimizer,
            self.accelerator.scaler,
            self.average.modules if self.average else {},
        )
        self.done, self.seconds = 0, 0.0
        self.took: list[float] = []  # seconds of each step that was taken here
        self.sound = True  # whether the weights are those of `done` whole steps
        self.preview: Image | None = None
        if job.checkpoint:
            self.done, self.seconds = job.run.load(job.checkpoint, self.state)

    def take(self, batches: Sequence[Batch]) -> Step:
        """One optimiser step over some batches.

        Raises BadInput when the loss or its gradient is no number; the weights are then left.
        """
        begun = perf_counter()
        self._adjust()
        turn = self._turn()
        rate = self.recipe.rate(self.done, course=turn.course)
        with detached(self.base.layers(), turn.resting):
            loss = self._backward(batches, turn)
        length = self._clip()
        if not (isfinite(loss) and isfinite(length)):
            self.sound = False
            raise BadInput(self._lost())
        self.sound = False
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        if self.average:
            self.average.follow(self.done)
        self.sound = True
        seconds = perf_counter() - begun
        self.seconds += seconds
        self.took.append(seconds)
        return Step(self.done, self.recipe.steps, loss, rate, seconds)

    def _adjust(self) -> None:
        kind, layers = self.job.kind, self.base.layers()
        if isinstance(kind, Adjusting) and kind.adjust(
            layers, self.job.deltas, done=self.done, steps=self.recipe.steps
        ):
            start_afresh(self.state.optimizer)
            if self.average:
                self.average.realign()

    def _turn(self) -> Turn:
        if not isinstance(self.job.kind, Turning):
            return Turn()
        return self.job.kind.turn(self.job.deltas, done=self.done, steps=self.recipe.steps)

    def _backward(self, batches: Sequence[Batch], turn: Turn) -> float:
        chance = generator_for(self.recipe.seed, "step", self.done)
        passes = [(batch.pictures, chance, 1.0) for batch in batches]
        if self.job.prior:
            chance = generator_for(self.recipe.seed, "prior", self.done)
            passes += [(batch.of_class, chance, self.recipe.prior_weight) for batch in batches]
        devices = [self.base.device] if self.base.device.type == "cuda" else []
        total = torch.zeros((), device=self.base.device)
        # Dropout draws from the global generators: seeded for the step, then put back.
        with torch.random.fork_rng(devices):
            seed = generator_for(self.recipe.seed, "dropout", self.done).initial_seed()
            torch.manual_seed(seed + self.group.number)
            start = 0
            for numbers, generator, weight in passes:
                own = self.group.own(start, len(numbers))
                start += len(numbers)
                if own:
                    share = len(own) / len(numbers)
                    loss = weight * share * self._loss(numbers, generator, own, turn)
                    loss = loss / len(batches)
                    self.accelerator.backward(loss)
                    total += loss.detach()
        self.group.sum(total, self.parameters)
        self._penalise()
        return float(total)

    def _penalise(self) -> None:
        """Add the gradient of the kind's own loss, once a step however many batches it has."""
        kind = self.job.kind
        if isinstance(kind, Penalising):
            generator = generator_for(self.recipe.seed, "penalty", self.done)
            penalty = kind.penalty(self.base.layers(), self.job.deltas, generator=generator)
            if penalty is not None:
                self.accelerator.backward(penalty)

    def _loss(
        self, numbers: Sequence[int], generator: torch.Generator, own: range, turn: Turn
    ) -> Tensor:
        """The mean loss of the pictures at these places of a batch, of which all draw."""
        drawn = [self._draw(number, generator, turn) for number in numbers]
        rows = [self._row(numbers[place], *drawn[place]) for place in own]

        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(row, name) for row in rows]).to(self.base.device)

        clean, noise = stacked("latents"), stacked("noise")
        at = torch.tensor([row.timestep for row in rows], device=self.base.device)
        with self.accelerator.autocast():
            predicted = self.base.predict(
                self.objective.noised(clean, stacked("seen"), at),
                at,
                self._text([row.caption for row in rows]),
                time_ids=None if rows[0].time_ids is None else stacked("time_ids"),
            )
        counting = None
        if rows[0].mask is not None:
            counting = stacked("mask").clamp(min=self.recipe.unmasked_weight)
        return self.objective.loss(predicted, clean, noise, at, counting=counting)

    def _draw(self, number: int, generator: torch.Generator, turn: Turn) -> tuple[Chance, Window]:
        """What chance decides for a picture, and the part of it that the step sees."""
        factor = self.base.latent_factor
        width, height = (side // factor for side in self.job.examples[number].bucket)
        chance = toss(
            generator,
            shape=(4, height, width),
            variants=self.cache.variants,
            caption_dropout=self.recipe.caption_dropout,
            timesteps=max(1, round(turn.noise * len(self.objective.signal))),
            noise_offset=self.recipe.noise_offset,
            input_perturbation=self.recipe.input_perturbation,
        )
        if turn.part == 1:
            return chance, Window(0, 0, height, width)
        step = self.base.step // factor
        return chance, window(generator, height=height, width=width, part=turn.part, step=step)

    def _row(self, number: int, chance: Chance, cut: Window) -> "_Row":
        picture = self.cache.picture(number, chance.variant)
        return _Row(
            latents=cut.of(picture.mean + picture.std * chance.posterior),
            noise=cut.of(chance.noise),
            seen=cut.of(chance.seen),
            timestep=chance.timestep,
            caption="" if chance.dropped else self.job.examples[number].caption,
            time_ids=_of_part(picture.time_ids, cut, self.base.latent_factor),
            mask=None if picture.mask is None else cut.of(picture.mask),
        )

    def _text(self, captions: Sequence[str]) -> TextEmbedding:
        if self.job.reads:
            return read_captions(self.base, captions)
        return _stacked([self.cache.text(caption) for caption in captions], self.base.device)

    def _clip(self) -> float:
        """Shorten the gradient to what is allowed; its length before."""
        self.accelerator.unscale_gradients(self.optimizer)
        length = torch.nn.utils.clip_grad_norm_(
            self.parameters, self.recipe.clip or inf, foreach=True
        )
        # With a scaler an overflow is its everyday business: it skips the step and scales less.
        return 0.0 if self.accelerator.scaler else float(length)

    def _lost(self) -> str:
        # A checkpoint of the step before holds the very weights that gave this loss.
        last = self.job.run.last_checkpoint(before=self.done)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint before it is kept"
        return (
            f"the loss is no longer a number at step {self.done + 1}: lower lr (it is "
            f"{self.recipe.lr:g}), or raise the precision (it is {self.job.precision}); {kept}"
        )

    def save(self) -> Saved:
        """Write a checkpoint of this step."""
        path = self.job.run.save(self.state, self.adapter(), step=self.done, seconds=self.seconds)
        if self.recipe.keep:
            self.job.run.thin(self.recipe.keep)
        return Saved(self.done, path)

    def note(self) -> None:
        """Leave word for the next estimate of such a training."""
        job = self.job
        settings = settings_of(job.kind, self.base, self.recipe, prior=job.prior is not None)
        note(job.run.folder, settings, self.took)

    def adapter(self) -> Adapter:
        """What is learned so far; the average of it, where one is kept."""
        learned = self.job.adapter(steps=self.done)
        if not self.average:
            return learned
        deltas, words = self.average.of(learned.deltas), self.average.words(learned.embeddings)
        return replace(learned, deltas=deltas, embeddings=words)

    def sample(self) -> Sampled:
        """Draw the sample prompts, each with its number as its seed, the deltas attached."""
        assert self.job.draw
        paths = []
        for delta in self.job.deltas.values():
            delta.eval()
        with torch.no_grad(), self.average.shown() if self.average else nullcontext():
            for number, prompt in enumerate(self.job.prompts()):
                picture = self.job.draw(prompt, number)
                paths.append(self.job.run.write_sample(picture, step=self.done, number=number))
                self.preview = self.preview if number else picture
        for delta in self.job.deltas.values():
            delta.train()
        return Sampled(self.done, tuple(paths))

    def finish(self) -> Finished:
        """Write the adapter, to the run's folder and to where it was asked for."""
        adapter = replace(self.adapter(), preview=self.preview)
        if not self.group.first:
            return Finished(self.job.run.adapter, adapter, self.done, self.seconds)
        path = adapter.save(self.job.run.adapter)
        if self.job.out:
            try:
                path = adapter.save(self.job.out)
            except BadInput as error:  # its folder has gone or is full by now; all the same done
                raise BadInput(f"{error}; the adapter is finished, it is {path}") from error
        return Finished(path, adapter, self.done, self.seconds)


@dataclass(frozen=True, eq=False)
class _Row:
    """One picture of a batch as the step sees it, on the CPU in float32."""

    latents: Tensor  # [4, h, w]
    noise: Tensor  # [4, h, w], what is to be predicted
    seen: Tensor  # [4, h, w], what the latents are mixed with
    timestep: int
    caption: str
    time_ids: Tensor | None  # [6]
    mask: Tensor | None  # [h, w] in 0 .. 1


def _of_part(time_ids: Tensor | None, cut: Window, factor: int) -> Tensor | None:
    """SDXL's sizes of a picture [6], with corner and sides of a part of it; factor: in pixels."""
    if time_ids is None:
        return None
    corner, sides = (cut.top, cut.left), (cut.height, cut.width)
    own = time_ids.new_tensor([factor * number for number in (*corner, *sides)])
    return torch.cat([time_ids[:2], time_ids[2:4] + own[:2], own[2:]])


def _stacked(texts: Sequence[TextEmbedding], device: torch.device) -> TextEmbedding:
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextEmbedding(
        hidden=torch.cat([text.hidden for text in texts]).to(device),
        pooled=torch.cat(pooled).to(device) if pooled else None,
    )


def _accelerator(base: Base, precision: str) -> Accelerator:
    # accelerate keeps one precision for the life of a process; here each training has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = precision if precision in ("fp16", "bf16") else "no"
    return Accelerator(mixed_precision=mixed, cpu=base.device.type == "cpu")


@contextmanager
def _lent(base: Base, *, checkpointing: bool) -> Iterator[None]:
    """The base frozen, so that no gradient is computed for it, and afterwards as it was."""
    unet = base.unet
    weights = (w for module in (unet, *base.text_encoders) for w in module.parameters())
    thawed = [weight for weight in weights if weight.requires_grad]
    for weight in thawed:
        weight.requires_grad_(False)
    recomputed = unet.is_gradient_checkpointing
    if checkpointing and not recomputed:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if checkpointing and not recomputed:
            unet.disable_gradient_checkpointing()
        for weight in thawed:
            weight.requires_grad_(True)
