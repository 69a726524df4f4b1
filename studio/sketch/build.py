"""Train the sketch bases: ``python -m studio.sketch.build``.

The stages draw the pictures, train the VAE, encode the pictures, train the text encoders and the
UNet of `sketch`, then those of `sketch-sd1`, and the judge. Each stage is seeded and can be
resumed. Weights go to assets/ in half precision. Checkpoints and drawings go to build/sketch/,
which git ignores.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (the annotations of diffusers and transformers are too narrow)

import argparse
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTokenizer

from studio.sketch import autoencoder, denoiser, judge
from studio.sketch.corpus import Corpus, pictures_for_autoencoder, pictures_for_denoiser
from studio.sketch.tokenizer import learn_tokenizer, tokenize
from studio.sketch.training import Checkpoints, Report
from studio.sketch.world import scenes as world

WORK = Path("build/sketch")
ASSETS = Path("assets")
VAE_PICTURES, UNET_PICTURES = 40_000, 80_000
CAPTIONS_PER_PICTURE = 4


def main() -> None:
    """Build the stages that are named, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m studio.sketch.build", description=main.__doc__)
    parser.add_argument("stage", nargs="*", help="vae, sketch, sketch-sd1, judge")
    parser.add_argument("--vae-steps", type=int, default=9_000)
    parser.add_argument("--steps", type=int, default=20_000, help="UNet steps of sketch")
    parser.add_argument("--sd1-steps", type=int, default=10_000)
    parser.add_argument("--judge-steps", type=int, default=3_000)
    parser.add_argument(
        "--export",
        action="store_true",
        help="do not train; write the weights of the last checkpoint",
    )
    parser.add_argument("--report", action="store_true", help="measure the bases in assets/")
    arguments = parser.parse_args()
    if arguments.report:
        from studio.sketch import report

        report.main()
        return
    stages = arguments.stage or ["vae", "sketch", "sketch-sd1", "judge"]
    if "vae" in stages:
        build_autoencoder(steps=arguments.vae_steps, export_only=arguments.export)
    for name, steps in (("sketch", arguments.steps), ("sketch-sd1", arguments.sd1_steps)):
        if name in stages:
            build_base(name, steps=steps, export_only=arguments.export)
    if "judge" in stages:
        build_judge(steps=arguments.judge_steps)


def build_autoencoder(*, steps: int, export_only: bool) -> None:
    """Train the VAE and write its averaged weights to build/sketch/vae."""
    state = WORK / "vae.pt"
    corpus = pictures_for_autoencoder(WORK / "everything", VAE_PICTURES)
    if not export_only:
        trained = autoencoder.train(corpus, Checkpoints(state), steps=steps)
        _print_and_log("vae", trained, unit="dB")
    vae = autoencoder.autoencoder()
    vae.load_state_dict(torch.load(state, weights_only=True)["average"])
    vae.register_to_config(scaling_factor=_scaling_factor(vae, corpus))
    autoencoder.fix_latent_deviation(vae)
    vae.save_pretrained(WORK / "vae")
    unseen = corpus.pictures[-autoencoder.UNSEEN :]
    print(json.dumps(autoencoder.measure(vae, unseen)))


@torch.no_grad()
def _scaling_factor(vae: AutoencoderKL, corpus: Corpus) -> float:
    """The factor that gives latents a deviation of one (Rombach et al. 2022, section G)."""
    latents = autoencoder.encode_all(vae, Corpus(corpus.pictures[:2000], []), None)
    return round(vae.config["scaling_factor"] / float(latents.float().std()), 5)


def build_base(name: str, *, steps: int, export_only: bool) -> None:
    """Train one base's text encoders and UNet and write it to assets/`name`."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    if name == "sketch":
        model, rate = denoiser.sdxl_denoiser(tokenizer), 1e-3
    else:
        text_encoder = denoiser.shrink_text_encoder(ASSETS / "sketch" / "text_encoder_2")
        model, rate = denoiser.sd1_denoiser(text_encoder), 2e-3
    state = WORK / f"{name}.pt"
    if not export_only:
        data, checkpoints = _training_data(tokenizer), Checkpoints(state)
        trained = denoiser.train(model, data, checkpoints, steps=steps, rate=rate)
        _print_and_log(name, trained, unit="loss")
    model.load_state_dict(torch.load(state, weights_only=True)["average"])
    _export(name, model, tokenizer)


def build_judge(*, steps: int) -> None:
    """Train the judge on drawings of the whole world and write it to assets/judge."""
    corpus = pictures_for_autoencoder(WORK / "everything", VAE_PICTURES)
    checkpoints = Checkpoints(WORK / "judge.pt")
    _print_and_log("judge", judge.train(corpus, checkpoints, steps=steps), unit="loss")
    judge.save_judge(torch.load(checkpoints.path, weights_only=True)["average"])
    shutil.copy(WORK / "judge.log", ASSETS / "judge")


def _tokenizer() -> CLIPTokenizer:
    """The tokenizer in build/sketch; learned if it is not there yet."""
    folder = WORK / "tokenizer"
    if not folder.exists():
        learn_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _training_data(tokenizer: CLIPTokenizer) -> denoiser.TrainingData:
    """Latents and tokenised captions of the denoiser's corpus, cached in build/sketch."""
    corpus = pictures_for_denoiser(WORK / "known", UNET_PICTURES)
    vae = AutoencoderKL.from_pretrained(WORK / "vae")
    latents = autoencoder.encode_all(vae, corpus, WORK / "latents.npy")
    path = WORK / "captions.npy"
    if not path.exists():
        rng = np.random.default_rng(5)
        captions = [
            world.caption(scene, rng)
            for scene in corpus.scenes
            if scene is not None
            for _ in range(CAPTIONS_PER_PICTURE)
        ]
        tokens = tokenize(tokenizer, captions)
        np.save(path, tokens.reshape(len(corpus.scenes), CAPTIONS_PER_PICTURE, -1))
    return denoiser.TrainingData(latents, np.load(path), tokenize(tokenizer, [""])[0])


def _export(name: str, model: denoiser.Denoiser, tokenizer: CLIPTokenizer) -> None:
    """Write assets/`name` in the diffusers layout, in half precision."""
    vae = AutoencoderKL.from_pretrained(WORK / "vae")
    scheduler = EulerDiscreteScheduler.from_config(denoiser.schedule().config)
    if name == "sketch":
        pipeline = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=model.text_encoders[0],
            text_encoder_2=model.text_encoders[1],
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=model.unet,
            scheduler=scheduler,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
    else:
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=model.text_encoders[0],
            tokenizer=tokenizer,
            unet=model.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.to(torch.float16).save_pretrained(ASSETS / name, safe_serialization=True)
    for path in (ASSETS / name).glob("text_encoder*/config.json"):
        # transformers opens weights in the type named here; diffusers opens its own in float32.
        config = json.loads(path.read_text()) | {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    for log in ("vae", name):
        shutil.copy(WORK / f"{log}.log", ASSETS / name)


def _print_and_log(name: str, reports: Iterable[Report], *, unit: str) -> None:
    """Run a training; print a line every hundred steps and append it to the stage's log."""
    log = WORK / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    values: list[float] = []
    started = time.perf_counter()
    for report in reports:
        values.append(report.value)
        if report.step % 100 == 0 or report.step == report.steps:
            seconds = (time.perf_counter() - started) / len(values)
            mean = sum(values) / len(values)
            line = f"{name} {report.step}/{report.steps} {unit} {mean:.4f} {seconds:.3f} s/step"
            print(line, flush=True)
            with log.open("a") as file:
                file.write(line + "\n")
            values, started = [], time.perf_counter()


if __name__ == "__main__":
    main()
