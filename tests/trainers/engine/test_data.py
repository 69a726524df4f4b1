"""What a training learns from, against plain loops: repeats and weights, masks, and a prior."""

# What options are given is the point here, and diffusers' loaders and prompts are typed loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from collections import Counter
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import trainers
from studio import Base
from studio.dataset.folders import Folder, Sources
from studio.errors import BadInput
from studio.requests.training import read_request
from tests.trainers.conftest import make_pictures
from tests.trainers.learning import NEAR, assert_resumes, learned, lora_request
from trainers import Drawn, Encoded, Kind, LoRA, Started, Step
from trainers.engine.data.batches import batches
from trainers.engine.data.randomness import generator_for
from trainers.engine.kind import new_deltas

TRIGGER = "a sks robot"
STEPS, BATCH, SEED = 4, 2, 3


# How often a picture comes


def drawn(weights: list[str], *, rounds: int, batch: int = 1) -> Counter[int]:
    """How often each picture came after so many rounds, all of one bucket."""
    shares = [Fraction(weight) for weight in weights]
    total = int(rounds * sum(shares))
    assert total % batch == 0
    plan = batches(["square"] * len(shares), batch=batch, seed=0, weights=shares)
    return Counter(n for numbers in islice(plan, total // batch) for n in numbers)


def test_a_round_brings_every_picture_as_often_as_its_weight() -> None:
    assert drawn(["1", "10", "3"], rounds=1) == {0: 1, 1: 10, 2: 3}
    assert drawn(["1", "10", "3"], rounds=4, batch=4) == {0: 4, 1: 40, 2: 12}
    assert drawn(["1", "0.1", "2.5"], rounds=20) == {0: 20, 1: 2, 2: 50}


def test_a_weight_below_one_brings_another_part_in_every_round() -> None:
    plan = batches(["square"] * 6, batch=3, seed=0, weights=[Fraction(1, 2)] * 6)
    for _ in range(5):
        assert sorted(next(plan) + next(plan)) == [0, 1, 2, 3, 4, 5]


def test_equal_weights_are_the_order_without_any() -> None:
    plain = batches(["a", "b", "a"], batch=2, seed=5)
    weighed = batches(["a", "b", "a"], batch=2, seed=5, weights=[Fraction(1)] * 3)
    assert list(islice(plain, 20)) == list(islice(weighed, 20))


# The usual loop of the example scripts, on peft's layers, with masks and with a prior


def seeded(text: str) -> torch.Generator:
    digest = sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") // 2)


def order(name: str, pictures: list[int]) -> list[list[int]]:
    """The batch of every step; `pictures`: the numbers of one round."""
    stream = (
        pictures[at]
        for epoch in count()
        for at in torch.randperm(len(pictures), generator=seeded(f"{SEED}/{name}/{epoch}")).tolist()
    )
    return [list(islice(stream, BATCH)) for _ in range(STEPS)]


class Plain:
    """A tiny SDXL of diffusers with peft's LoRA, and the loss of one batch by hand."""

    def __init__(self, model: Path, kind: LoRA, base: Base) -> None:
        self.pipe = StableDiffusionXLPipeline.from_pretrained(model).to(base.dtype)
        self.pipe.unet.requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        self.pipe.unet.add_adapter(
            LoraConfig(r=kind.rank, lora_alpha=kind.rank, target_modules=targets)
        )
        for name, delta in new_deltas(kind, base, generator=generator_for(SEED, "start")).items():
            layer = self.pipe.unet.get_submodule(name.removeprefix("unet."))
            layer.lora_A["default"].weight.data.copy_(delta.down)
        self.trained = [p for p in self.pipe.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3, weight_decay=0.01)
        self.noise = DDPMScheduler.from_config(self.pipe.scheduler.config)

    def errors(self, pictures: list[tuple[Path, str]], chance: torch.Generator) -> Tensor:
        """Squared errors [B, 4, 8, 8] of the predicted noise, weighted by min-SNR."""
        latents, noise, at = [], [], []
        for path, _ in pictures:
            at.append(int(torch.randint(1000, (), generator=chance)))
            with torch.no_grad():
                values = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)
                pixels = torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1
                posterior = self.pipe.vae.encode(pixels).latent_dist
            sample = posterior.mean + posterior.std * torch.randn(4, 8, 8, generator=chance)
            latents.append(sample[0] * self.pipe.vae.config.scaling_factor)
            noise.append(torch.randn(4, 8, 8, generator=chance))
        with torch.no_grad():
            hidden, _, pooled, _ = self.pipe.encode_prompt(
                [caption for _, caption in pictures], do_classifier_free_guidance=False
            )
        clean, eps, when = torch.stack(latents), torch.stack(noise), torch.tensor(at)
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(pictures))
        predicted = self.pipe.unet(
            self.noise.add_noise(clean, eps, when),
            when,
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
        ).sample
        alphas = self.noise.alphas_cumprod[when]
        snr = alphas / (1 - alphas)
        return (predicted - eps) ** 2 * (snr.clamp(max=5.0) / snr).view(-1, 1, 1, 1)

    def step(self, loss: Tensor) -> float:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def assert_equals(self, run: Path) -> None:
        """The adapter that Studio trained is peft's."""
        ours = load_file(run / "adapter.safetensors")
        theirs = get_peft_model_state_dict(self.pipe.unet)
        assert len(ours) == len(theirs)
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[f"unet.{name}"], tensor, **NEAR)


def studio_losses(base: Base, sources: Sources, run: Path, **options) -> list[float]:
    """The losses of a training, and its adapter in the run's folder."""
    kind = LoRA(rank=4)
    options = {"steps": STEPS, "batch": BATCH, "seed": SEED, "schedule": "constant", **options}
    progress = trainers.train(
        kind, base, sources, trigger=TRIGGER, run=run, lr=1e-3, save_every=0, **options
    )
    return [event.loss for event in progress if isinstance(event, Step)]


def test_repeats_and_weights_equal_a_loop_over_copies(
    sdxl64: Base, sdxl_folder: Path, tmp_path: Path
) -> None:
    """A picture of two repeats in a folder of weight 2 comes four times a round."""
    one = make_pictures(tmp_path / "one", sides=[(64, 64)])
    two = make_pictures(tmp_path / "two" / "2_dog", sides=[(64, 64)] * 2)
    ours = studio_losses(sdxl64, [one, (two.parent, 2)], tmp_path / "run")
    captioned = "a photo of a sks robot in red"
    pictures = [(one / "0.png", captioned), (two / "0.png", captioned), (two / "1.png", "dog")]
    loop = Plain(sdxl_folder, LoRA(rank=4), sdxl64)
    theirs = [
        loop.step(loop.errors([pictures[n] for n in numbers], seeded(f"{SEED}/step/{step}")).mean())
        for step, numbers in enumerate(order("order", [0] + [1] * 4 + [2] * 4))
    ]
    assert ours == pytest.approx(theirs, abs=1e-5)
    loop.assert_equals(tmp_path / "run")


def masked_folder(folder: Path) -> Path:
    """Three pictures with masks of noise, so that no two latents count the same."""
    make_pictures(folder, sides=[(64, 64)] * 3)
    for number in range(3):
        shades = np.random.default_rng(9 + number).integers(0, 256, (64, 64))
        shades[:40] //= 8  # that some fall below the weight of what is outside
        Image.fromarray(shades.astype(np.uint8)).save(folder / f"{number}.mask.png")
    return folder


def test_a_masked_loss_is_the_mean_weighted_by_the_mask(
    sdxl64: Base, sdxl_folder: Path, tmp_path: Path
) -> None:
    folder = masked_folder(tmp_path / "pictures")
    ours = studio_losses(sdxl64, folder, tmp_path / "run", masked="files", unmasked_weight=0.2)
    captions = ["a photo of a sks robot in red", TRIGGER, TRIGGER]
    counting = []
    for number in range(3):
        mask = np.asarray(Image.open(folder / f"{number}.mask.png"), dtype=np.float64) / 255
        mean = mask.reshape(8, 8, 8, 8).mean(axis=(1, 3))
        counting.append(torch.from_numpy(np.maximum(mean, 0.2)))
    loop = Plain(sdxl_folder, LoRA(rank=4), sdxl64)
    theirs = []
    for step, numbers in enumerate(order("order", [0, 1, 2])):
        pictures = [(folder / f"{n}.png", captions[n]) for n in numbers]
        errors = loop.errors(pictures, seeded(f"{SEED}/step/{step}"))
        means = [
            sum((error[c] * counting[n]).sum() for c in range(4)) / (4 * counting[n].sum())
            for error, n in zip(errors, numbers, strict=True)
        ]
        theirs.append(loop.step(sum(means) / BATCH))
    assert ours == pytest.approx(theirs, abs=1e-5)
    loop.assert_equals(tmp_path / "run")


def test_a_prior_adds_the_weighted_loss_of_a_class_batch(
    sdxl64: Base, sdxl_folder: Path, folder: Path, tmp_path: Path
) -> None:
    """Class pictures have repeats, captions of their own, and random numbers of their own."""
    classes = make_pictures(tmp_path / "class", sides=[(64, 64)] * 2)
    make_pictures(classes / "2_dog", sides=[(64, 64)] * 2)
    options = {"prior_class": "a robot", "prior_weight": 0.7, "prior_count": 4}
    ours = studio_losses(sdxl64, folder, tmp_path / "run", prior_pictures=classes, **options)
    red = "a photo of a sks robot in red"
    own = [(folder / f"{n}.png", red if n == 0 else TRIGGER) for n in range(3)]
    of_class = [(classes / f"{n}.png", red if n == 0 else "a robot") for n in range(2)]
    of_class += [(classes / "2_dog" / f"{n}.png", red if n == 0 else "dog") for n in range(2)]
    loop = Plain(sdxl_folder, LoRA(rank=4), sdxl64)
    theirs = []
    both = zip(order("order", [0, 1, 2]), order("prior order", [0, 1, 2, 2, 3, 3]), strict=True)
    for step, (numbers, others) in enumerate(both):
        pictures = loop.errors([own[n] for n in numbers], seeded(f"{SEED}/step/{step}"))
        prior = loop.errors([of_class[n] for n in others], seeded(f"{SEED}/prior/{step}"))
        theirs.append(loop.step(pictures.mean() + 0.7 * prior.mean()))
    assert ours == pytest.approx(theirs, abs=1e-5)
    loop.assert_equals(tmp_path / "run")


def test_the_first_loss_without_a_prior_is_part_of_that_with_one(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """The pictures' own random numbers stay what they are, accumulated batches too."""
    classes = make_pictures(tmp_path / "class", sides=[(64, 64)])
    options = {"steps": 1, "accumulation": 3, "flip": True, "caption_dropout": 0.5}
    found = [studio_losses(sdxl, folder, tmp_path / "bare", **options)[0]]
    for number, weight in enumerate((0.5, 1.0)):
        more = {"prior_pictures": classes, "prior_class": "x", "prior_count": 0}
        run = tmp_path / f"run{number}"
        found += studio_losses(sdxl, folder, run, prior_weight=weight, **more, **options)
    assert found[2] - found[0] == pytest.approx(2 * (found[1] - found[0]), abs=1e-6)
    assert found[2] > found[0]


@pytest.mark.parametrize(
    "kind", [trainers.SaRA(threshold=1e-3), trainers.DiffuseKronA(), trainers.BLoRA(rank=2)]
)
def test_every_kind_takes_all_of_it(sdxl: Base, tmp_path: Path, kind: Kind) -> None:
    """And ends in the same bytes when it was stopped on the way."""
    folder = masked_folder(tmp_path / "masked" / "3_sks robot").parent
    more = masked_folder(tmp_path / "more")
    classes = make_pictures(tmp_path / "class" / "1_robot", sides=[(64, 64), (96, 64)]).parent
    options = {"masked": "files", "flip": True, "crops": 2, "steps": 2, "cache": "disk"}
    sources: list = [folder, (more, 0.5)]
    assert_resumes(
        kind, sdxl, sources, tmp_path, after=1, prior_pictures=classes, prior_weight=0.5, **options
    )


# The run's folder


def begun(base: Base, sources: Sources, run: Path, **options) -> Started:
    """A training that is left before its first step."""
    progress = trainers.train(LoRA(rank=2), base, sources, trigger=TRIGGER, run=run, **options)
    with closing(progress):
        first = next(progress)
    assert isinstance(first, Started)
    return first


def test_a_run_knows_all_its_folders(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    more = make_pictures(tmp_path / "more" / "3_dog", sides=[(64, 64)]).parent
    assert begun(sdxl, folder, tmp_path / "one").round == 3
    assert read_request(tmp_path / "one").pictures == (Folder(folder),)
    started = begun(sdxl, [folder, (more, 0.5)], tmp_path / "two")
    assert (started.examples, started.round) == (4, 4.5)
    assert read_request(tmp_path / "two").pictures == (Folder(folder), Folder(more, 0.5))
    (more / "3_dog").rename(more / "4_dog")
    with pytest.raises(BadInput, match=rf"in {folder}, {more} are no longer those"):
        trainers.resume(tmp_path / "two", sdxl)


def test_another_mask_is_another_training(sdxl: Base, tmp_path: Path) -> None:
    folder = masked_folder(tmp_path / "pictures")
    begun(sdxl, folder, tmp_path / "run", masked="files")
    Image.new("L", (64, 64), "white").save(folder / "1.mask.png")
    with pytest.raises(BadInput, match=r"masks in .* are no longer those"):
        trainers.resume(tmp_path / "run", sdxl)


def test_masks_are_kept_beside_their_pictures(
    sdxl: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = masked_folder(tmp_path / "pictures")
    options = {"cache": "disk", "crops": 2, "flip": True, "steps": 2}
    plain = studio_losses(sdxl, folder, tmp_path / "plain", **options)
    monkeypatch.setattr(sdxl, "posterior", None)  # the pictures are not encoded again for masks
    first = studio_losses(sdxl, folder, tmp_path / "a", masked="files", **options)
    monkeypatch.setattr("trainers.engine.data.cache.latent_mask", None)
    again = studio_losses(sdxl, folder, tmp_path / "b", masked="files", **options)
    assert first == again != plain


def test_all_is_learned_where_the_outside_counts_like_the_inside(
    sdxl: Base, tmp_path: Path
) -> None:
    folder = masked_folder(tmp_path / "pictures")
    plain = studio_losses(sdxl, folder, tmp_path / "plain")
    masked = studio_losses(sdxl, folder, tmp_path / "all", masked="files", unmasked_weight=1.0)
    assert masked == pytest.approx(plain, rel=1e-5)


# Class pictures


class Drawer:
    """Draws noise of its seed, and remembers what it was asked for."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.asked: list[tuple[str, int]] = []

    def __call__(self, prompt: str, seed: int) -> Image.Image:
        assert not torch.is_grad_enabled()
        bare = not any("forward" in vars(layer) for layer in self.base.layers().values())
        assert bare or prompt == TRIGGER  # the class is drawn by the base alone
        self.asked.append((prompt, seed))
        values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        picture = Image.fromarray(values)
        picture.info["parameters"] = f"{prompt} {seed}"
        return picture

    @property
    def classes(self) -> list[tuple[str, int]]:
        return [asked for asked in self.asked if asked[0] != TRIGGER]


PRIOR = {"prior_class": "a robot", "prior_count": 4}


def test_missing_class_pictures_are_drawn_before_the_training(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    draw = Drawer(sdxl)
    progress = list(
        trainers.train(
            LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", draw=draw,
            steps=2, batch=2, **PRIOR,
        )
    )  # fmt: skip
    assert draw.classes == [("a robot", seed) for seed in range(4)]
    told = [event for event in progress if isinstance(event, Drawn)]
    assert told == [Drawn(done, 4) for done in range(1, 5)]
    encoded = [event.total for event in progress if isinstance(event, Encoded)]
    assert encoded[0] == 3 + 4 + 3  # pictures, of the class, and the texts of both
    for seed in range(4):
        picture = Image.open(tmp_path / "run" / "prior" / f"class-{seed:04d}.png")
        values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        assert np.array_equal(np.asarray(picture), values)
        assert picture.info["parameters"] == f"a robot {seed}"
        assert (tmp_path / "run" / "prior" / f"class-{seed:04d}.txt").read_text() == "a robot\n"


def test_class_pictures_are_never_drawn_twice(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    """Stopped while they are drawn, a run goes on where it was, and others may use its folder."""
    draw, run = Drawer(sdxl), tmp_path / "run"
    short = {"steps": 2, "batch": 2, "save_every": 0}
    whole = list(
        trainers.train(LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "whole",
                       draw=Drawer(sdxl), **PRIOR, **short)
    )  # fmt: skip
    cut = trainers.train(
        LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=run, draw=draw, **PRIOR, **short
    )
    for event in cut:
        if event == Drawn(2, 4):
            break
    cut.close()
    assert draw.classes == [("a robot", 0), ("a robot", 1)]
    (run / "prior" / ".class-0002.png.part").write_bytes(b"x")
    rest = list(trainers.resume(run, sdxl, draw=draw))
    assert draw.classes == [("a robot", seed) for seed in range(4)]
    files = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("run", "whole")]
    assert files[0] == files[1]
    assert [e for e in rest if isinstance(e, Step)][-1].loss == next(
        e.loss for e in reversed(whole) if isinstance(e, Step)
    )
    used = {"prior_pictures": run / "prior", "prior_class": "a robot", "prior_count": 4}
    learned(LoRA(rank=2), sdxl, folder, tmp_path / "other", **used, **short)
    assert len(draw.classes) == 4


def test_a_folder_is_filled_up_with_what_it_lacks(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    classes = make_pictures(tmp_path / "class", sides=[(64, 64)] * 2)
    (classes / "class-0001.png").write_bytes((classes / "0.png").read_bytes())
    draw = Drawer(sdxl)
    run = trainers.train(
        LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", draw=draw,
        prior_pictures=classes, prior_class="a robot", prior_count=5, steps=1,
    )  # fmt: skip
    list(run)
    assert draw.classes == [("a robot", 0), ("a robot", 2)]
    assert not (tmp_path / "run" / "prior").exists()


def test_what_another_process_has_drawn_meanwhile_is_taken(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    """As of several ranks, which are all prepared before the first of them draws."""
    draw, classes = Drawer(sdxl), tmp_path / "class"
    first, second = (
        trainers.train(
            LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / name, draw=draw,
            prior_pictures=classes, steps=1, **PRIOR,
        )
        for name in ("first", "second")
    )  # fmt: skip
    list(first)
    list(second)
    assert draw.classes == [("a robot", seed) for seed in range(4)]
    files = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]


def test_other_class_pictures_are_not_resumed(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    classes = make_pictures(tmp_path / "class", sides=[(64, 64)] * 2)
    run = trainers.train(
        LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", steps=3,
        prior_pictures=classes, prior_class="a robot", prior_count=0,
    )  # fmt: skip
    with closing(run):
        next(event for event in run if isinstance(event, Step))
    assert read_request(tmp_path / "run").prior_pictures == classes
    (classes / "1.txt").write_text("another robot")
    with pytest.raises(BadInput, match=r"class pictures in .* are no longer those"):
        trainers.resume(tmp_path / "run", sdxl)


def test_pictures_that_were_checked_are_not_read_again(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = lora_request(folder, steps=1)
    checked = trainers.check(request)
    list(trainers.run_request(replace(request, run=tmp_path / "read"), sdxl))
    monkeypatch.setattr("trainers.engine.data.dataset.read_pictures", None)
    given = replace(request, run=tmp_path / "given")
    list(trainers.run_request(given, sdxl, pictures=checked))
    files = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("read", "given")]
    assert files[0] == files[1]


def test_wishes_that_make_no_sense_are_refused(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    classes = make_pictures(tmp_path / "class", sides=[(64, 64)] * 2)
    for options, said in (
        ({"masked": "beta"}, "masked must be one of alpha, files"),
        ({"size": 70}, "size: 70 is not a multiple of"),
        ({"masked": "files"}, "0.png has no mask"),
        ({"masked": "alpha"}, "0.png has no alpha channel"),
        ({"unmasked_weight": 0.5}, "unmasked_weight is for learning with masks"),
        (
            {"masked": "files", "unmasked_weight": 2.0},
            "unmasked_weight must be a number from 0 to 1",
        ),
        ({"prior_weight": 0.5}, "prior_weight needs class pictures"),
        ({"prior_count": 5}, "prior_count is for class pictures that are drawn"),
        ({"prior_class": " "}, "prior_class must be a text that is not empty"),
        ({"prior_class": "a robot", "prior_weight": 0.0}, "prior_weight must be a number above 0"),
        (
            {"prior_class": "a robot", "prior_count": -1},
            "prior_count must be a whole number of at least 0",
        ),
        ({"prior_pictures": tmp_path / "none"}, "There is no folder"),
        ({"prior_pictures": classes}, r"1.png has no caption: say what .*prior_class"),
        ({"prior_pictures": folder / "0.png", "prior_class": "x"}, "is a file"),
    ):
        with pytest.raises(BadInput, match=said):
            trainers.check(lora_request(folder, **options))
        with pytest.raises(BadInput, match=said):
            trainers.train(LoRA(), sdxl, folder, trigger=TRIGGER, run=tmp_path / "r", **options)
    for options, said in (
        ({"prior_class": "a robot"}, "100 pictures of 'a robot' are missing .* give draw"),
        ({"prior_class": "a robot", "prior_count": 0}, "none are to be drawn"),
    ):
        with pytest.raises(BadInput, match=said):
            trainers.train(LoRA(), sdxl, folder, trigger=TRIGGER, run=tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()
