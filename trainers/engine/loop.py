"""The one optimisation loop: it trains every kind, with accelerate, as a generator.

    prepare_training (setup.py)    read the pictures, make the deltas, check everything
    run_training                   draw class pictures, fill the cache, take the steps
    Trainer.step                   one optimizer step
    Trainer.save, Trainer.finish   write a checkpoint, write the adapter's file

While the generator runs, the base's weights are frozen and the deltas are attached beside them.
When it ends or is closed, the base is as it was. The random draws of a step depend only on the seed
and on the step's number (trainers/engine/data/randomness.py), so a run that was stopped and resumed
gives the same numbers as one that never stopped.
"""

import logging
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from math import inf, isfinite
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from PIL.Image import Image

from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta, attach, detached
from studio.adapters.delta.timed import tell_timesteps
from studio.bases.base import Base
from studio.bases.device import has_own_memory, release_unused
from studio.bases.quantized.widened import widening_again
from studio.errors import BadInput
from studio.out_of_memory import is_out_of_memory
from studio.training_asks import Ask, take_ask
from trainers.engine.compiled_blocks import CompiledBlocks
from trainers.engine.data.batches import Batch
from trainers.engine.data.cache import Cache
from trainers.engine.data.prior_preservation import record_class_pictures
from trainers.engine.data.randomness import generator_for
from trainers.engine.distributed import (
    autocast_of,
    broadcast_path,
    check_world_size,
    new_accelerator,
    places_of_rank,
    sum_over_ranks,
)
from trainers.engine.ema import EMA
from trainers.engine.estimate.step_times import is_round, settings_of, write_step_time
from trainers.engine.from_prompts.alignment import Alignment
from trainers.engine.from_prompts.alignment_loss import AlignmentLoss
from trainers.engine.from_prompts.distillation import Distillation
from trainers.engine.from_prompts.distillation_loss import DistillationLoss
from trainers.engine.kind import StepPlan
from trainers.engine.objective import BatchLoss
from trainers.engine.optimizers import (
    learning_rates,
    new_optimizer,
    parameter_groups,
    start_afresh,
)
from trainers.engine.progress import Drawn, Encoded, Finished, Progress, Sampled, Saved, Step
from trainers.engine.run.checkpoint import TrainingState
from trainers.engine.run.folder import Log, Run, report_full_disk
from trainers.engine.run.lock import lock_folder, make_numbered_folder
from trainers.engine.run.tensorboard import write_events
from trainers.engine.setup import PreparedTraining
from trainers.engine.starts import plain

LOG = logging.getLogger(__name__)
LOGGED = ("step", "loss", "lr", "seconds")  # fields of a Step in log.jsonl


def run_training(training: PreparedTraining) -> Generator[Progress, None, None]:
    """Train to the last step. Closing the generator earlier writes a checkpoint."""
    recipe, base = training.recipe, training.base
    check_world_size(recipe.batch * recipe.accumulation)
    accelerator = new_accelerator(base.device, autocast_of(base.dtype, training.precision))
    with (
        _in_locked_folder(training, accelerator) as training,
        report_full_disk(training.run),
        frozen_base(base, checkpointing=recipe.checkpointing),
        training.mixed.merged(base),
    ):
        with accelerator.main_process_first():
            yield training.begin()
            training = yield from _with_class_pictures(training)
        yield from _encode_and_train(training, accelerator)


def _encode_and_train(
    training: PreparedTraining, accelerator: Accelerator
) -> Generator[Progress, None, None]:
    base, cache = training.base, training.new_cache()
    for done, total in cache.fill(training.captions_to_cache()):
        yield Encoded(done, total)
    trainer = Trainer(training, cache, accelerator)
    idle = () if training.trains_text else base.text_encoders
    idle = idle if isinstance(training.kind, Alignment) else (base.vae, *idle)
    with (
        base.put_aside(*idle),  # samples bring them back
        attach(base.layers(), training.deltas),
        tell_timesteps(base.unet, training.deltas),
        trainer.blocks.chosen(wanted=training.recipe.compile),
        base.use_embeddings(training.embeddings),
    ):
        yield from _logged_steps(trainer)


@contextmanager
def _in_locked_folder(
    training: PreparedTraining, accelerator: Accelerator
) -> Iterator[PreparedTraining]:
    """Rank 0 makes and locks the run's folder; all ranks get the training moved to it."""
    run = training.run
    with ExitStack() as held:
        if accelerator.is_main_process:
            if training.request.run is None:
                run = Run(make_numbered_folder(training.request.kind))
            held.enter_context(lock_folder(run.folder))
        training = training.moved_to(Run(broadcast_path(accelerator, run.folder)))
        if accelerator.is_main_process:
            training.check_as_prepared()
        yield training


def _with_class_pictures(
    training: PreparedTraining,
) -> Generator[Drawn, None, PreparedTraining]:
    """The training with all its class pictures. Missing ones are drawn first."""
    dataset, prior = training.dataset, training.dataset.prior
    if prior is None:
        return training
    if prior.missing(dataset.class_pictures):
        present = prior.read()  # another process may have drawn them meanwhile
        if missing := prior.missing(present):
            assert training.draw  # otherwise prepare_training has refused
            yield from prior.draw(missing, training.draw)
            present = prior.read()
        dataset = replace(dataset, class_pictures=present)
    record_class_pictures(training.run, dataset.class_pictures)
    return replace(training, dataset=dataset)


def _logged_steps(trainer: "Trainer") -> Iterator[Progress]:
    """Take the steps. Rank 0 writes log.jsonl and, if the recipe asks for it, TensorBoard's log."""
    training, steps = trainer.training, _steps(trainer)
    if not trainer.accelerator.is_main_process:
        yield from steps
        return
    if training.recipe.tensorboard:
        steps = write_events(
            steps,
            training.run.folder,
            first_step=trainer.done + 1,
            prompts=training.sample_prompts(),
            learning_rates=trainer.learning_rates,
        )
    with closing(Log(training.run, keep=trainer.done)) as log, closing(steps):
        for event in steps:
            if isinstance(event, Step):
                log.write({**{name: getattr(event, name) for name in LOGGED}, **event.measured})
            yield event


def _steps(trainer: "Trainer") -> Generator[Progress, None, None]:
    """Take all remaining steps, with samples and checkpoints between them."""
    training, recipe = trainer.training, trainer.recipe
    draws, saved = training.draw is not None, trainer.done
    batches = islice(trainer.loss.batches(), trainer.done * recipe.accumulation, None)
    try:
        if trainer.done == 0:
            trainer.begin()
        while trainer.done < recipe.steps:
            step = trainer.step(list(islice(batches, recipe.accumulation)))
            if is_round(len(trainer.step_seconds)) and trainer.accelerator.is_main_process:
                trainer.record_step_times()
            yield step
            if step.step == recipe.steps or not trainer.accelerator.is_main_process:
                continue
            if draws and _is_due("sample", training, step.step, recipe.sample_every):
                yield trainer.sample()
            if _is_due("save", training, step.step, recipe.save_every):
                saved = step.step
                yield trainer.save()
        if draws and trainer.accelerator.is_main_process:
            yield trainer.sample()  # the first picture becomes the adapter's preview
        finished = trainer.finish()
        saved = trainer.done
        yield finished
    finally:
        if trainer.accelerator.is_main_process:
            if trainer.consistent and trainer.done > saved:
                trainer.save()
            trainer.record_step_times()


def _is_due(what: Ask, training: PreparedTraining, step: int, every: int | None) -> bool:
    """Whether it is time for samples or a checkpoint, or somebody has asked for them."""
    asked = take_ask(training.run.folder, what)
    return asked or bool(every and step % every == 0)


# What the loop minimises: the error on pictures, a student's distance from its teacher, or minus a
# reward. All three have `batches`, `begin`, `draw_rows`, `loss` and `measured`.
StepLoss = BatchLoss | DistillationLoss | AlignmentLoss


def _new_loss(training: PreparedTraining, cache: Cache, accelerator: Accelerator) -> StepLoss:
    prompts = [example.caption for example in training.dataset.examples]
    shared = training.base, training.recipe, prompts, cache, accelerator, training.deltas
    match training.kind:
        case Distillation() as kind:
            return DistillationLoss(kind, *shared)
        case Alignment() as kind:
            return AlignmentLoss(kind, *shared)
    return BatchLoss(
        training.base,
        training.recipe,
        training.dataset,
        cache,
        accelerator=accelerator,
        trains_text=training.trains_text,
        pieces=training.pieces,
    )


class Trainer:
    """A running training: its weights, its optimizer, and the number of steps done."""

    def __init__(self, training: PreparedTraining, cache: Cache, accelerator: Accelerator) -> None:
        self.training, self.base, self.recipe = training, training.base, training.recipe
        self.accelerator = accelerator
        groups = parameter_groups(training.trained, self.recipe)
        self.parameters = [p for group in groups for p in group["params"]]
        optimizer = new_optimizer(groups, self.recipe, scaled=training.precision == "fp16")
        self.optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)
        self.ema = EMA(training.trained, self.recipe.ema) if self.recipe.ema else None
        self.loss = _new_loss(training, cache, accelerator)
        average = self.ema.modules if self.ema else {}
        self.state = TrainingState(training.trained, optimizer, accelerator.scaler, average)
        self.done, self.seconds = 0, 0.0
        self.step_seconds: list[float] = []  # without the steps before the run was resumed
        self.blocks = CompiledBlocks(self.base.unet)
        self.consistent = True  # False while a step has changed only some of the weights
        self.preview: Image | None = None
        if training.checkpoint:
            progress = training.run.load_checkpoint(training.checkpoint, self.state)
            self.done, self.seconds = progress

    def begin(self) -> None:
        """Let the kind look at the pictures, before the first step."""
        training = self.training
        training.kind.begin(self.base.layers(), training.deltas, self._passes_of_base())

    @torch.no_grad()
    def _passes_of_base(self) -> Iterator[None]:
        """Run the base on one batch at each iteration. Every rank runs the whole batch."""
        generator = generator_for(self.recipe.seed, "begin")
        for batch in self.loss.batches():
            places = range(len(batch.pictures))
            rows: Sequence[Any] = self.loss.draw_rows(batch.pictures, places, generator, StepPlan())
            self.loss.loss(rows)
            yield

    def step(self, batches: Sequence[Batch]) -> Step:
        """Take one optimizer step over these batches.

        Raises BadInput when the loss or its gradient is NaN or Inf; then no weight changes.
        """
        started = perf_counter()
        self._adjust()
        kind, deltas = self.training.kind, self.training.deltas
        plan = kind.plan_step(deltas, done=self.done, steps=self.recipe.steps)
        rate = self.recipe.rate(self.done, course=plan.schedule)
        with detached(self.base.layers(), plan.detached), frozen(deltas, plan.frozen):
            loss = self._backward_in_memory(batches, plan)
        norm = self._clip()
        self.consistent = False
        if not (isfinite(loss) and isfinite(norm)):
            raise BadInput(self._diverged())
        self._optimize(rate)
        self.consistent = True
        seconds = perf_counter() - started
        self.seconds += seconds
        self.step_seconds.append(seconds)
        self.blocks.note(seconds)
        return Step(self.done, self.recipe.steps, loss, rate, seconds, self.loss.measured)

    def _adjust(self) -> None:
        kind, deltas, steps = self.training.kind, self.training.deltas, self.recipe.steps
        if kind.adjust(self.base.layers(), deltas, done=self.done, steps=steps):
            start_afresh(self.state.optimizer)
            if self.ema:
                self.ema.realign()

    def _optimize(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        if self.ema:
            self.ema.update(self.done)

    def _backward_in_memory(self, batches: Sequence[Batch], plan: StepPlan) -> float:
        """`_backward`. Where a GPU's memory runs out, turn on checkpointing and try again."""
        unet, device = self.base.unet, self.base.device
        try:
            return self._backward(batches, plan)
        except (MemoryError, RuntimeError) as error:
            can_save = has_own_memory(device) and not unet.is_gradient_checkpointing
            if not (can_save and is_out_of_memory(error)):
                raise
        LOG.warning("Memory ran out: activations are recomputed from now on (checkpointing).")
        self.optimizer.zero_grad()
        release_unused(device)
        for part in (unet, self.base.vae):
            part.enable_gradient_checkpointing()
        return self._backward(batches, plan)

    def _backward(self, batches: Sequence[Batch], plan: StepPlan) -> float:
        """Compute the gradients of a step, summed over all ranks; returns its loss."""
        total, start = torch.zeros((), device=self.base.device), 0
        self.loss.begin(self.done)
        hooks = nullcontext() if self.base.quantize == "none" else widening_again()
        with self._seeded_dropout(), hooks:
            for numbers, generator, weight in self._passes(batches):
                places = places_of_rank(self.accelerator, start, len(numbers))
                start += len(numbers)
                rows: Sequence[Any] = self.loss.draw_rows(numbers, places, generator, plan)
                if rows:
                    share = len(rows) / len(numbers)
                    mean = self.loss.loss(rows, clean=plan.clean)
                    loss = weight * share * mean / len(batches)
                    self.accelerator.backward(loss)
                    total += loss.detach()
        sum_over_ranks(self.accelerator, total, self.parameters)
        self._backward_penalty()
        return float(total)

    def _passes(
        self, batches: Sequence[Batch]
    ) -> Iterator[tuple[tuple[int, ...], torch.Generator, float]]:
        """The passes of a step: each one's pictures, random generator and weight of the loss."""
        generator = generator_for(self.recipe.seed, "step", self.done)
        for batch in batches:
            yield batch.pictures, generator, 1.0
        if self.training.dataset.prior:
            generator = generator_for(self.recipe.seed, "prior", self.done)
            for batch in batches:
                yield batch.class_pictures, generator, self.recipe.prior_weight

    @contextmanager
    def _seeded_dropout(self) -> Iterator[None]:
        """Inside the block, the global generators, which dropout uses, are seeded for the step."""
        devices = [self.base.device] if self.base.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            seed = generator_for(self.recipe.seed, "dropout", self.done).initial_seed()
            torch.manual_seed(seed + self.accelerator.process_index)
            yield

    def _backward_penalty(self) -> None:
        """Add the gradient of the kind's own loss, once for all batches of the step."""
        penalty = self.training.kind.penalty(
            self.base.layers(),
            self.training.deltas,
            generator=generator_for(self.recipe.seed, "penalty", self.done),
        )
        if penalty is not None:
            self.accelerator.backward(penalty)

    def _clip(self) -> float:
        """Clip the norm of the gradient; returns the norm that it had."""
        self.accelerator.unscale_gradients(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters, self.recipe.clip or inf, foreach=True
        )
        # With GradScaler an infinite norm is no error: it skips the step and scales less from then.
        return 0.0 if self.accelerator.scaler else float(norm)

    def _diverged(self) -> str:
        # A checkpoint after the last step is no good: it holds the weights that gave this loss.
        last = self.training.run.last_checkpoint(before=self.done)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint before it is kept"
        return (
            f"the loss is NaN or Inf at step {self.done + 1}: lower lr (it is "
            f"{self.recipe.lr:g}), or raise the precision (it is {self.training.precision}); {kept}"
        )

    def learning_rates(self, rate: float) -> dict[str, float]:
        """The learning rate of every part that learns, by name. rate: that of the step."""
        # Prodigy multiplies all rates by its own estimate.
        rate *= self.optimizer.param_groups[0].get("d", 1.0)
        return learning_rates(self.training.trained, self.recipe, rate)

    def save(self) -> Saved:
        """Write a checkpoint of this step."""
        run = self.training.run
        path = run.save_checkpoint(self.state, self.adapter(), step=self.done, seconds=self.seconds)
        if self.recipe.keep:
            run.keep_newest(self.recipe.keep)
        return Saved(self.done, path)

    def record_step_times(self) -> None:
        """Record how long steps took, for the next estimate of a similar training."""
        prior = self.training.dataset.prior is not None
        settings = settings_of(self.training.kind, self.base, self.recipe, prior=prior)
        write_step_time(self.training.run.folder, settings, self.step_seconds)

    def adapter(self) -> Adapter:
        """The adapter as it is now, with the EMA weights if the recipe asks for them."""
        learned = self.training.adapter(steps=self.done)
        if not self.ema:
            return learned
        tokens = self.ema.embeddings(learned.embeddings)
        return replace(learned, deltas=plain(self.ema.deltas(learned.deltas)), embeddings=tokens)

    def sample(self) -> Sampled:
        """Draw the sample prompts with the deltas attached. A prompt's number is its seed."""
        assert self.training.draw
        paths = []
        for delta in self.training.deltas.values():
            delta.eval()
        with torch.no_grad(), self.ema.applied() if self.ema else nullcontext():
            for number, prompt in enumerate(self.training.sample_prompts()):
                picture = self.training.draw(prompt, number)
                paths.append(self.training.run.write_sample(picture, step=self.done, number=number))
                self.preview = self.preview if number else picture
        for delta in self.training.deltas.values():
            delta.train()
        return Sampled(self.done, tuple(paths))

    def finish(self) -> Finished:
        """Write the adapter to the run's folder and, if the request names one, to another file."""
        adapter, path = replace(self.adapter(), preview=self.preview), self.training.run.adapter
        if self.accelerator.is_main_process:
            path = adapter.save(path)
            if self.training.request.out:
                try:
                    path = self.training.run.write_out(adapter, self.training.request.out)
                except BadInput as error:  # the folder is gone or full, or the file exists by now
                    raise BadInput(f"{error}; the adapter is finished, it is {path}") from error
        return Finished(path, adapter, self.done, self.seconds)


@contextmanager
def frozen(deltas: Mapping[str, Delta], names: Collection[str]) -> Iterator[None]:
    """Inside the block, the deltas of these layers act but get no gradients."""
    parameters = [p for name in names for p in deltas[name].parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def frozen_base(base: Base, *, checkpointing: bool) -> Iterator[None]:
    """Inside the block, the base's weights get no gradients; afterwards everything is as before.

    checkpointing: UNet and VAE recompute their activations (gradient checkpointing).
    """
    parts = (base.unet, base.vae)
    weights = (w for module in (*parts, *base.text_encoders) for w in module.parameters())
    trainable = [weight for weight in weights if weight.requires_grad]
    for weight in trainable:
        weight.requires_grad_(False)
    before = base.unet.is_gradient_checkpointing
    if checkpointing and not before:
        for part in parts:
            part.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if not before:  # also turns off checkpointing that began inside the block
            for part in parts:
                part.disable_gradient_checkpointing()
        for weight in trainable:
            weight.requires_grad_(True)
