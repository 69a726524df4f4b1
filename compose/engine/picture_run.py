"""The state of one picture while it is drawn: its method's plan, its weights, its encoded texts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from compose.engine.evaluate import Answer, Evaluation, attend, evaluate
from compose.engine.expected.drawing_memory import check_room
from compose.engine.method import (
    Call,
    Eps,
    FindingMethod,
    Halves,
    Mix,
    RegionalPlan,
    finding_steps,
    method_of,
)
from compose.engine.preview import fit_palette, paint
from compose.engine.regions.attention import Words
from compose.engine.regions.concepts import Concept
from compose.engine.regions.contrast import Contrast
from compose.engine.regions.crops import Box, Grid
from compose.engine.regions.finding import masks_of, places_of
from compose.engine.sampler import timesteps_of
from compose.engine.texts.avoid import perp_neg, project_out
from compose.engine.texts.learned_words import embeddings, is_token, split_mixed, words
from compose.engine.texts.trigger_effects import weighed_method
from compose.engine.weights.mixed_weights import MixedWeights, changed_weight, mixed_weights
from compose.engine.weights.render_cache import adapters_on, cache_of
from studio.adapters.delta import swap_weights
from studio.bases.prompts import PromptReading, TextEmbedding
from studio.requests.resolved_shot import ResolvedShot

if TYPE_CHECKING:
    from studio.bases.base import Base


class PictureRun:
    """One shot on its base: the method's calls, the evaluations that answer them, the texts.

    calls: the method's calls at each step. finding: the run that finds this picture's regions,
    which comes first. seen: in such a run, the attention to its concepts, one for each evaluation.
    Raises BadInput where the method can't use the adapters.
    """

    def __init__(
        self, base: "Base", resolved: ResolvedShot, *, steps: int, concepts: Sequence[Concept] = ()
    ) -> None:
        """concepts: in a run that finds regions, what to look for."""
        shot = resolved.shot
        adapters, beside = split_mixed(resolved.adapters)
        method = method_of(shot)
        mixed = [adapter for adapter, _ in adapters]
        method.check(mixed)
        base.check_clip_skip(shot.clip_skip)
        method = weighed_method(method, base, shot, mixed)
        self.base = base
        self.resolved, self.shot = resolved, shot
        self.method, self.concepts = method, concepts
        self.finding: PictureRun | None = None
        self.contrast: Contrast | None = None
        self.seen: list[Tensor] = []
        self.changes = adapters_on(base, adapters)
        self.beside = adapters_on(base, beside)  # only new words, which every mix has
        self.cache = cache_of(base)
        self._planned = self.cache.plan(method, self.changes, self.beside, steps)
        self.plan, self.calls = self._planned.plan, self._planned.calls
        self.reused = {call.reuse for step in self.calls for call in step if call.reuse is not None}
        size = (resolved.height, resolved.width)
        self.time_ids = base.time_ids(original=size, crop=(0, 0), target=size)
        self._box_ids: dict[Box, Tensor | None] = {}
        self.deep: dict[Mix, Tensor] = {}
        in_training = {
            n.split(".")[0] for n, one in base.layers().items() if "forward" in vars(one)
        }
        self.cache.training = bool(in_training)
        # A training changes weights unseen, so texts encoded with them must not be kept.
        learning = in_training - {"unet"} or base.learned_words or base.altered
        self._training = bool(learning)
        self._texts: dict[tuple[MixedWeights, bool, str | None], TextEmbedding] = {}
        self.watched = self._watched() if concepts else ()
        if isinstance(method, FindingMethod):
            wanted = method.concepts(mixed, shot.prompt)
            first = replace(resolved, shot=replace(shot, method=method.finding, regions=()))
            self.finding = PictureRun(base, first, steps=finding_steps(steps), concepts=wanted)
            self.finding.contrast = self._contrast(method.contrast, self.finding)

    @property
    def latent_side(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.base.latent_side(self.resolved.width, self.resolved.height)

    @cached_property
    def areas(self) -> Sequence[Tensor]:
        """The masks of a RegionalPlan, each [1, 1, h, w]; none for other plans."""
        if not isinstance(self.plan, RegionalPlan):
            return ()
        return self.plan.areas(self.grid).to(self.base.device).unbind()

    @cached_property
    def grid(self) -> Grid:
        """The grid of latent pixels, from which crops are cut."""
        factor = self.base.latent_factor
        return Grid(*self.latent_side, self.base.step // factor, self.base.size // factor)

    def eps(self, latents: Tensor, timestep: Tensor, answers: dict[Call, Tensor | Halves]) -> Eps:
        """An Eps at scaled latents [1, 4, h, w] that first looks for the answer in `answers`."""

        def answer(call: Call) -> Tensor | Halves:
            if call not in answers:
                (evaluated,) = evaluate(self.base, [self.evaluation(call, latents, timestep)])
                answers[call] = self.guided(call, evaluated)
            return answers[call]

        return Eps(answer, self.areas)

    def evaluation(self, call: Call, latents: Tensor, timestep: Tensor) -> Evaluation:
        """The evaluation that answers a call at scaled latents [1, 4, h, w]."""
        time_ids = self.time_ids
        if call.box is not None:
            latents = latents[..., *self.grid.crop(call.box)]
            time_ids = self._time_ids_of(call.box)
        return Evaluation(
            latents,
            timestep,
            self._text(call),
            self.mixed_weights(call.mix, unet=True),
            time_ids=time_ids,
            deep=None if call.reuse is None else self.deep[call.reuse],
            keeps=call.mix in self.reused and call.reuse is None,
            watched=self.watched,
        )

    def _contrast(self, amount: float, finding: "PictureRun") -> Contrast | None:
        """The Contrast of this picture, for the run that finds its regions and for itself."""
        if amount == 0:
            return None
        mixes = dict.fromkeys([Mix(()), *(call.mix for call in self.calls[0])])

        def maps(latents: Tensor, timestep: Tensor) -> Tensor:
            merged = finding.evaluation(finding.calls[0][0], latents, timestep)
            row = min(1, merged.rows - 1)  # of the prompt
            pooled = merged.text.pooled
            text = TextEmbedding(
                merged.text.hidden[row : row + 1], None if pooled is None else pooled[row : row + 1]
            )
            weights = (finding.mixed_weights(mix, unet=True) for mix in mixes)
            return attend(
                self.base, [replace(merged, text=text, mixed_weights=one) for one in weights]
            )

        return Contrast(amount, len(self.calls), maps)

    def _watched(self) -> Words:
        """The places of the concepts' tokens in the prompt."""
        learned = embeddings(self.mixed_weights(self.calls[0][0].mix, unet=False))
        with self.base.use_embeddings(learned):
            return places_of(self.base, self.concepts, self.shot.prompt, self.shot.syntax)

    def placed(self) -> ResolvedShot:
        """The shot with the regions that `finding` has found."""
        assert self.finding and isinstance(self.method, FindingMethod)
        masks = masks_of(self.finding.seen, self.latent_side)
        regions = self.method.placed(masks, [one.prompt for one in self.finding.concepts])
        shot = replace(self.shot, method=self.method.drawn, regions=regions)
        return replace(self.resolved, shot=shot)

    def guided(self, call: Call, answer: Answer) -> Tensor | Halves:
        """The answer to a call: the guided prediction [1, 4, h, w], or both halves.

        Keeps the deep features and the attention of the evaluation for later.
        """
        if call.mix in self.reused and answer.deep is not None:
            self.deep[call.mix] = answer.deep
        if answer.attention is not None:
            self.seen.append(answer.attention)
        noise = answer.noise
        if call.box is not None:
            noise = noise.new_zeros(*noise.shape[:2], *self.latent_side)
            noise[..., *self.grid.crop(call.box)] = answer.noise
        if len(noise) == 1:
            return noise
        without, prompted, *avoided = noise.split(1)
        if avoided:
            prompted = perp_neg(without, prompted, avoided, self.shot.avoid_strength)
        if not call.guided:
            return Halves(without, prompted, self.shot.guidance)
        return without + self.shot.guidance * (prompted - without)

    def _time_ids_of(self, box: Box) -> Tensor | None:
        """The time ids of a crop, those of a picture of the crop's size."""
        if box not in self._box_ids:
            factor = self.base.latent_factor
            rows, columns = self.grid.crop(box)
            size = (rows.stop - rows.start) * factor, (columns.stop - columns.start) * factor
            self._box_ids[box] = self.base.time_ids(original=size, crop=(0, 0), target=size)
        return self._box_ids[box]

    def mixed_weights(self, mix: Mix, *, unet: bool) -> MixedWeights:
        """The changes of a mix to the weights of the UNet or of the text encoders."""
        known, key = self._planned.weights, (mix, unet)
        if key not in known:
            changed = mixed_weights(mix, self.changes, unet=unet)
            tokens = frozenset() if unet else words(mix, self.changes, self.beside)
            known[key] = changed | tokens
        return known[key]

    def paint(self, latents: Tensor) -> Image.Image:
        """A preview of latents in the picture's size, without the VAE."""
        if self.cache.palette is None:
            self.cache.palette = fit_palette(self.base)
        return paint(latents, self.cache.palette, factor=self.base.latent_factor)

    def _text(self, call: Call) -> TextEmbedding:
        """The encoded texts of a call: hidden [2, L, D], the negative prompt first, or [1, L, D].

        Words that Perp-Neg avoids are rows behind the prompt.
        """
        wanted = self.mixed_weights(call.mix, unet=False)
        key = wanted, self.shot.guidance > 1 or not call.guided, call.prompt
        if key not in self._texts:
            self._texts[key] = self._encode(*key)
        return self._texts[key]

    def _encode(self, wanted: MixedWeights, both: bool, prompt: str | None) -> TextEmbedding:
        zero = self.base.zero_negative and not self.shot.negative
        prompt = self.shot.prompt if prompt is None else prompt
        texts = [*([self.shot.negative] if both and not zero else []), prompt]
        decor = self.shot.avoid_by == "decor"
        avoided = self.shot.avoid if both or decor else ()
        texts += avoided
        with self.base.use_embeddings(embeddings(wanted)):
            pieces = self.base.count_pieces(texts, self.shot.syntax)
        encoded = [self._encode_one(text, pieces, wanted) for text in texts]
        if avoided and decor:
            at = len(texts) - len(avoided)
            prompted = self._decorated(encoded[at - 1], encoded[at:], pieces, wanted)
            encoded = [*encoded[: at - 1], prompted]
        if both and zero:
            encoded.insert(0, _zeros(encoded[0]))
        return TextEmbedding.joined(encoded)

    def _decorated(
        self,
        prompt: TextEmbedding,
        avoided: Sequence[TextEmbedding],
        pieces: int,
        wanted: MixedWeights,
    ) -> TextEmbedding:
        """The prompt's embedding without the share of the words to avoid (DECOR)."""
        with self.base.use_embeddings(embeddings(wanted)):
            counts = [self.base.count_tokens(text, self.shot.syntax) for text in self.shot.avoid]
        empty = self._encode_one("", pieces, wanted)
        pairs = list(zip(avoided, counts, strict=True))
        return project_out(prompt, pairs, empty, self.shot.avoid_strength)

    def _encode_one(self, text: str, pieces: int, wanted: MixedWeights) -> TextEmbedding:
        """One text, hidden [1, L, D]; texts are encoded singly, as a batch may change last bits."""
        layers = self.base.layers_and_norms()
        reading = PromptReading(self.shot.syntax, self.shot.clip_skip)
        key = (text, reading, pieces, wanted)
        if key in self.cache.texts and not self._training:
            return self.cache.texts[key]
        self.base.move_to_device(*self.base.text_encoders)  # before their weights are changed
        weights = {
            layer: changed_weight(layer, mix, layers, dense=self.cache.dense)
            for layer, mix in wanted
            if not is_token(layer)
        }
        learned = embeddings(wanted)
        with torch.no_grad(), swap_weights(layers, weights), self.base.use_embeddings(learned):
            encoded = self.base.encode_text([text], reading=reading, pieces=pieces)
        if not self._training:
            self.cache.texts[key] = encoded
        return encoded


def start_run(base: "Base", resolved: ResolvedShot, *, second: bool = False) -> PictureRun:
    """The run of a shot's first or second pass, ready to be denoised.

    Raises BadInput for a shot that can't be made, also where memory is too small for it.
    """
    scheduler, timesteps = timesteps_of(base, resolved.shot, second=second)
    steps = -(-len(timesteps) // scheduler.order)
    with cache_of(base).lock:
        run = PictureRun(base, resolved.second() if second else resolved, steps=steps)
        check_room(base, resolved)
    return run


def _zeros(text: TextEmbedding) -> TextEmbedding:
    pooled = None if text.pooled is None else torch.zeros_like(text.pooled)
    return TextEmbedding(torch.zeros_like(text.hidden), pooled)
