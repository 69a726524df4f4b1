"""Train the sketch bases and their judge: ``python -m studio.sketch.build``.

The stages train the VAE, then text encoders and UNet of `sketch`, then those of `sketch-sd1`, and
the judge. Each is seeded, lasts as long as its budget says and can be resumed. A GPU is used where
there is one; the UNets need one to become good. One more stage, `art`, runs only when it is named:
it fetches the designs that assets/ already has from the npm registry and draws them anew. Weights
go to assets/ in half precision. Checkpoints and drawings go to build/sketch/, which git ignores.
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

from studio.sketch import autoencoder, captions, corpus, denoiser, judge
from studio.sketch import scenes as world
from studio.sketch.draw import draw_batch
from studio.sketch.tokenizer import learn_tokenizer, tokenize
from studio.sketch.training import Budget, Checkpoints, Report

WORK = Path("build/sketch")
ASSETS = Path("assets")
STAGES = ("vae", "sketch", "sketch-sd1", "judge")
VAE_PARTS, JUDGE_PARTS = 40, 200  # of the corpus, 500 pictures each
SCENES, CAPTIONS = 140_000, 3  # pictures that a UNet learns from, and captions of each
ENCODED_AT_ONCE = 400


def main() -> None:
    """Build the stages that are named, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m studio.sketch.build", description=main.__doc__)
    parser.add_argument("stage", nargs="*", help=", ".join((*STAGES, "art")))
    parser.add_argument("--vae-steps", type=int, default=9_000)
    parser.add_argument("--seconds", type=float, default=540.0, help="training of each UNet")
    parser.add_argument("--batch", type=int, default=512, help="pictures a step of a UNet")
    parser.add_argument("--scenes", type=int, default=SCENES, help="pictures that a UNet sees")
    parser.add_argument("--judge-steps", type=int, default=8_000)
    parser.add_argument("--report", action="store_true", help="measure the base in assets/")
    asked = parser.parse_args()
    if asked.report:
        from studio.sketch import report

        report.main()
        return
    stages = asked.stage or STAGES
    if "art" in stages:
        from studio.sketch.fetch_art import fetch_art

        fetch_art(WORK / "npm")
    if "vae" in stages:
        build_autoencoder(steps=asked.vae_steps)
    for name in ("sketch", "sketch-sd1"):
        if name in stages:
            build_base(name, seconds=asked.seconds, batch=asked.batch, scenes=asked.scenes)
    if "judge" in stages:
        build_judge(steps=asked.judge_steps)


def build_autoencoder(*, steps: int) -> None:
    """Train the VAE and write its averaged weights to build/sketch/vae."""
    pictures = corpus.pictures(WORK / "varied", VAE_PARTS, corpus.draw_varied_part)
    checkpoints = Checkpoints(WORK / "vae.pt", Budget(steps=steps))
    _print_and_log("vae", autoencoder.train(pictures, checkpoints), unit="dB")
    vae = autoencoder.autoencoder()
    vae.load_state_dict(torch.load(checkpoints.path, weights_only=True)["average"])
    vae.register_to_config(scaling_factor=autoencoder.scaling_factor(vae, pictures[:1000]))
    autoencoder.fix_latent_deviation(vae)
    vae.save_pretrained(WORK / "vae")
    print(json.dumps(autoencoder.measure(vae, pictures[-autoencoder.UNSEEN :])))


def build_base(name: str, *, seconds: float, batch: int, scenes: int) -> None:
    """Train one base's text encoders and UNet for `seconds` and write it to assets/`name`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    make = denoiser.sdxl_denoiser if name == "sketch" else denoiser.sd1_denoiser
    model = make(tokenizer)
    data = _training_data(tokenizer, scenes, device)
    checkpoints = Checkpoints(WORK / f"{name}.pt", Budget(seconds=seconds))
    trained = denoiser.train(model, data, checkpoints, batch=batch, device=device)
    _print_and_log(name, trained, unit="loss")
    model.load_state_dict(torch.load(checkpoints.path, weights_only=True)["average"])
    export(ASSETS / name, model.cpu(), tokenizer)
    shutil.copy(WORK / f"{name}.log", ASSETS / name)


def build_judge(*, steps: int) -> None:
    """Train the judge on drawings of the whole world and write it to assets/judge."""
    data = judge.training_data(WORK / "judge", JUDGE_PARTS)
    checkpoints = Checkpoints(WORK / "judge.pt", Budget(steps=steps))
    _print_and_log("judge", judge.train(data, checkpoints), unit="loss")
    judge.save_judge(torch.load(checkpoints.path, weights_only=True)["average"])
    shutil.copy(WORK / "judge.log", ASSETS / "judge")


def _tokenizer() -> CLIPTokenizer:
    """The tokenizer in build/sketch; learned if it is not there yet."""
    folder = WORK / "tokenizer"
    if not folder.exists():
        learn_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _vae() -> AutoencoderKL:
    """The VAE in build/sketch, or else the one in assets/."""
    return autoencoder.load(WORK if (WORK / "vae").exists() else ASSETS / "sketch")


@torch.no_grad()
def _training_data(tokenizer: CLIPTokenizer, count: int, device: str) -> denoiser.TrainingData:
    """Latents and captions of random scenes without anything held out; cached in build/sketch."""
    path = WORK / f"latents-{count}.pt"
    if path.exists():
        return denoiser.TrainingData(**torch.load(path, weights_only=True))
    rng, vae = np.random.default_rng(5), _vae().to(device)
    latents, tokens = [], []
    for start in range(0, count, ENCODED_AT_ONCE):
        scenes = [world.sample(rng) for _ in range(min(ENCODED_AT_ONCE, count - start))]
        pixels = draw_batch(scenes, device) * 2 - 1
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            mean = vae.encode(pixels).latent_dist.mean
        latents.append((mean * vae.config["scaling_factor"]).half().cpu())
        said = [captions.wording(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
        tokens.append(torch.from_numpy(tokenize(tokenizer, said)).view(len(scenes), CAPTIONS, -1))
    empty = torch.from_numpy(tokenize(tokenizer, [""])[0])
    data = {"latents": torch.cat(latents), "captions": torch.cat(tokens), "empty": empty}
    torch.save(data, path)
    return denoiser.TrainingData(**data)


def export(folder: Path, model: denoiser.Denoiser, tokenizer: CLIPTokenizer) -> None:
    """Write a base in the diffusers layout, in half precision."""
    parts = {
        "vae": _vae(),
        "text_encoder": model.text_encoders[0],
        "tokenizer": tokenizer,
        "unet": model.unet,
        "scheduler": EulerDiscreteScheduler.from_config(denoiser.schedule().config),
    }
    if len(model.text_encoders) == 2:
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=model.text_encoders[1],
            tokenizer_2=tokenizer,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("text_encoder*/config.json"):
        # transformers opens weights in the type named here; diffusers opens its own in float32.
        config = json.loads(path.read_text()) | {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2) + "\n")


def _print_and_log(name: str, reports: Iterable[Report], *, unit: str) -> None:
    """Run a training; print a line every hundred steps and append it to the stage's log."""
    log = WORK / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    values: list[float] = []
    started = time.perf_counter()
    for report in reports:
        values.append(report.value)
        if report.step % 100 == 0 or report.share >= 1:
            mean = sum(values) / len(values)
            seconds = time.perf_counter() - started
            line = f"{name} step {report.step} {report.share:.0%} {unit} {mean:.4f} {seconds:.0f} s"
            print(line, flush=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            values.clear()


if __name__ == "__main__":
    main()
