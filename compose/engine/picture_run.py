"""One picture under way: what its method asks the UNet for, what that means, and its texts."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from compose.engine.evaluate import Answer, Evaluation, evaluate
from compose.engine.expected.drawing_memory import check_room
from compose.engine.method import Call, Eps, Halves, Mix, RegionalPlan, method_of
from compose.engine.preview import fit_palette, paint
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
    """The base as one shot uses it: what its method asks for, what that means, its texts.

    asked: the calls of each step. Raises BadInput where the method can't use the adapters.
    """

    def __init__(self, base: "Base", resolved: ResolvedShot, *, steps: int) -> None:
        shot = resolved.shot
        adapters, beside = split_mixed(resolved.adapters)
        method = method_of(shot)
        mixed = [adapter for adapter, _ in adapters]
        method.check(mixed)
        base.check_clip_skip(shot.clip_skip)
        method = weighed_method(method, base, shot, mixed)
        self.base = base
        self.resolved, self.shot = resolved, shot
        self.changes = adapters_on(base, adapters)
        self.beside = adapters_on(base, beside)  # in every mix, for what they let prompts say
        self.cache = cache_of(base)
        self._planned = self.cache.plan(method, self.changes, self.beside, steps)
        self.plan, self.calls = self._planned.plan, self._planned.calls
        self.reused = {call.reuse for step in self.calls for call in step if call.reuse is not None}
        size = (resolved.height, resolved.width)
        self.time_ids = base.time_ids(original=size, crop=(0, 0), target=size)
        self.deep: dict[Mix, Tensor] = {}
        in_training = {
            n.split(".")[0] for n, one in base.layers().items() if "forward" in vars(one)
        }
        self.cache.training = bool(in_training)
        # What trains changes unseen, so what text encoders say with it is not to be kept.
        learning = in_training - {"unet"} or base.learned_words or base.altered
        self._training = bool(learning)
        self._texts: dict[tuple[MixedWeights, bool, str | None], TextEmbedding] = {}

    @property
    def latent_side(self) -> tuple[int, int]:
        """Height and width of the latents."""
        factor = self.base.latent_factor
        return self.resolved.height // factor, self.resolved.width // factor

    @cached_property
    def areas(self) -> Sequence[Tensor]:
        """What the plan's predictions count in the latents' pixels; see RegionalPlan."""
        if not isinstance(self.plan, RegionalPlan):
            return ()
        factor = self.base.latent_factor
        side = self.resolved.height // factor, self.resolved.width // factor
        return self.plan.areas(side).to(self.base.device).unbind()

    def eps(self, latents: Tensor, timestep: Tensor, answers: dict[Call, Tensor | Halves]) -> Eps:
        """Evaluates the UNet at scaled latents [1, 4, h, w], where it was not done before."""

        def answer(call: Call) -> Tensor | Halves:
            if call not in answers:
                (found,) = evaluate(self.base, [self.evaluation(call, latents, timestep)])
                answers[call] = self.guided(call, found)
            return answers[call]

        return Eps(answer, self.areas)

    def evaluation(self, call: Call, latents: Tensor, timestep: Tensor) -> Evaluation:
        """What answers a call at scaled latents [1, 4, h, w], to be evaluated."""
        return Evaluation(
            latents,
            timestep,
            self._text(call),
            self.mixed_weights(call.mix, unet=True),
            time_ids=self.time_ids,
            deep=None if call.reuse is None else self.deep[call.reuse],
            keeps=call.mix in self.reused and call.reuse is None,
        )

    def guided(self, call: Call, answer: Answer) -> Tensor | Halves:
        """What a call is answered with: the guided prediction [1, 4, h, w], or both halves."""
        if call.mix in self.reused and answer.deep is not None:
            self.deep[call.mix] = answer.deep
        if len(answer.noise) == 1:
            return answer.noise
        without, prompted, *avoided = answer.noise.split(1)
        if avoided:
            prompted = perp_neg(without, prompted, avoided, self.shot.avoid_strength)
        if not call.guided:
            return Halves(without, prompted, self.shot.guidance)
        return without + self.shot.guidance * (prompted - without)

    def mixed_weights(self, mix: Mix, *, unet: bool) -> MixedWeights:
        """What is mixed into the weights of the UNet or of the text encoders."""
        known, key = self._planned.weights, (mix, unet)
        if key not in known:
            changed = mixed_weights(mix, self.changes, unet=unet)
            tokens = frozenset() if unet else words(mix, self.changes, self.beside)
            known[key] = changed | tokens
        return known[key]

    def paint(self, latents: Tensor) -> Image.Image:
        """A quick look at latents, in the picture's size."""
        if self.cache.palette is None:
            self.cache.palette = fit_palette(self.base)
        return paint(latents, self.cache.palette, factor=self.base.latent_factor)

    def _text(self, call: Call) -> TextEmbedding:
        """hidden [2, L, D], the negative prompt first, or [1, L, D] of the prompt alone.

        Words that are avoided by Perp-Neg are rows behind the prompt.
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
        found = [self._encode_one(text, pieces, wanted) for text in texts]
        if avoided and decor:
            at = len(texts) - len(avoided)
            found = [*found[: at - 1], self._decorated(found[at - 1], found[at:], pieces, wanted)]
        if both and zero:
            found.insert(0, _zeros(found[0]))
        pooled = [one.pooled for one in found if one.pooled is not None]
        hidden = torch.cat([one.hidden for one in found])
        return TextEmbedding(hidden, torch.cat(pooled) if pooled else None)

    def _decorated(
        self,
        prompt: TextEmbedding,
        avoided: Sequence[TextEmbedding],
        pieces: int,
        wanted: MixedWeights,
    ) -> TextEmbedding:
        """The prompt without what the words to avoid mean."""
        with self.base.use_embeddings(embeddings(wanted)):
            counts = [self.base.count_tokens(text, self.shot.syntax) for text in self.shot.avoid]
        empty = self._encode_one("", pieces, wanted)
        pairs = list(zip(avoided, counts, strict=True))
        return project_out(prompt, pairs, empty, self.shot.avoid_strength)

    def _encode_one(self, text: str, pieces: int, wanted: MixedWeights) -> TextEmbedding:
        """hidden [1, L, D]; each text by itself, so that no neighbour can change its last bits."""
        layers = self.base.layers_and_norms()
        reading = PromptReading(self.shot.syntax, self.shot.clip_skip)
        key = (text, reading, pieces, wanted)
        if key in self.cache.texts and not self._training:
            return self.cache.texts[key]
        self.base.move_to_device(*self.base.text_encoders)  # before weights of theirs are changed
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
    """Make a shot ready to be denoised, in its first pass or in its second.

    Raises BadInput for one that can't be made, also as there is no memory for it.
    """
    scheduler, timesteps = timesteps_of(base, resolved.shot, second=second)
    steps = -(-len(timesteps) // scheduler.order)
    run = PictureRun(base, resolved.second() if second else resolved, steps=steps)
    check_room(base, resolved)
    return run


def _zeros(text: TextEmbedding) -> TextEmbedding:
    pooled = None if text.pooled is None else torch.zeros_like(text.pooled)
    return TextEmbedding(torch.zeros_like(text.hidden), pooled)
