"""A training that starts from an adapter changes the base at first exactly as the adapter does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import trainers
from studio import Adapter, Base, load_adapter, load_base
from studio.adapters.delta import Delta, LowRank, attach
from studio.bases.prompts import TextEmbedding
from studio.errors import BadInput
from studio.requests.training import read_request
from tests.tiny import tiny_sdxl
from tests.trainers.learning import SHORT, TRIGGER, learned, lora_request
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, SaRA, Step
from trainers.engine.kind import new_deltas
from trainers.engine.warm_start import start_from


def started(kind: Kind, base: Base, file: Path | str) -> dict[str, Delta]:
    """What a training of this kind starts with, from the file."""
    deltas = new_deltas(kind, base, generator=torch.Generator().manual_seed(7))
    start_from(file, deltas, base, "training")
    return deltas


def predicted(base: Base, deltas: dict[str, Delta]) -> torch.Tensor:
    """The base's prediction with these deltas on it, of some latents."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = base.encode_text(["a sks robot", "a cat"])
    text = TextEmbedding(
        text.hidden.detach(), None if text.pooled is None else text.pooled.detach()
    )
    for delta in deltas.values():
        delta.eval()
    with torch.no_grad(), attach(base.layers(), deltas):
        return base.predict(latents, 500, text)


KINDS = [
    LoRA(rank=4, alpha=2, targets="all"),
    LoRA(rank=4, dora=True),
    BLoRA(rank=4),
    DiffuseKronA(a1=8),
    SaRA(threshold=0.01),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: type(kind).__name__)
def trained(request, sdxl: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, Path]:
    """A kind, and the file of a short training of it."""
    from tests.trainers.conftest import make_pictures

    folder = tmp_path_factory.mktemp("trained")
    make_pictures(folder / "pictures", sides=[(64, 64)])
    learned(request.param, sdxl, folder / "pictures", folder / "run", steps=2, lr=1e-2)
    return request.param, folder / "run" / "adapter.safetensors"


def test_it_starts_from_the_very_numbers(sdxl: Base, trained: tuple[Kind, Path]) -> None:
    kind, file = trained
    ours, theirs = started(kind, sdxl, file), load_adapter(file).deltas
    assert ours.keys() == theirs.keys()
    for layer, delta in ours.items():
        for name, tensor in theirs[layer].tensors().items():
            assert torch.equal(delta.tensors()[name], tensor)
    torch.testing.assert_close(predicted(sdxl, ours), predicted(sdxl, theirs), rtol=0, atol=1e-6)
    plain = predicted(sdxl, {})
    assert (predicted(sdxl, ours) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("trained", [KINDS[0], KINDS[-1]], indirect=True)
def test_the_first_loss_is_that_of_the_base_under_the_adapter(
    sdxl: Base, trained: tuple[Kind, Path], folder: Path, tmp_path: Path
) -> None:
    """The losses of a training that moves nothing, with and without the file."""
    kind, file = trained
    still = {**SHORT, "lr": 1e-12, "steps": 1, "seed": 5}
    run = trainers.train(
        kind, sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", init=file, **still
    )
    first = next(event.loss for event in run if isinstance(event, Step))
    # The same step of a training from nothing, on a base that has the change in its weights.
    other = load_base(sdxl.source, device="cpu")
    with torch.no_grad():
        for layer, delta in load_adapter(file).deltas.items():
            weight = other.layers()[layer].weight
            assert isinstance(weight, torch.Tensor)
            weight += delta.dense(weight)
    # Sparse entries are those of the base's weights: any other kind that starts at nothing does.
    _, losses = learned(LoRA(rank=1), other, folder, tmp_path / "folded", **still)
    assert first == pytest.approx(losses[0], abs=1e-6)


def test_another_scale_and_a_higher_rank_come_to_the_same_change(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learned(LoRA(rank=4, alpha=2), sdxl, folder, tmp_path / "run", steps=2, lr=1e-2)
    file = tmp_path / "run" / "adapter.safetensors"
    weight = torch.zeros(0)
    for kind in (LoRA(rank=4, alpha=8), LoRA(rank=6, rank_stabilised=True)):
        deltas = started(kind, sdxl, file)
        for layer, given in load_adapter(file).deltas.items():
            weight = torch.zeros(given.shape)
            torch.testing.assert_close(deltas[layer].dense(weight), given.dense(weight))
    fresh = started(LoRA(rank=6), sdxl, file)
    assert all(isinstance(d, LowRank) and d.down[4:].abs().min() > 0 for d in fresh.values())


def test_layers_that_the_file_lacks_start_from_nothing(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run", steps=2, lr=1e-2)
    file = tmp_path / "run" / "adapter.safetensors"
    wider = started(LoRA(rank=4, targets="all"), sdxl, file)
    theirs = load_adapter(file).deltas
    assert len(wider) > len(theirs)
    torch.testing.assert_close(predicted(sdxl, wider), predicted(sdxl, theirs), rtol=0, atol=1e-6)
    with pytest.raises(BadInput, match="layers that this training does not train, such as unet"):
        started(BLoRA(rank=4), sdxl, file)


def test_half_a_blora_starts_the_other_afresh(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    learned(BLoRA(rank=4), sdxl, folder, tmp_path / "run", steps=2, lr=1e-2)
    half = f"{tmp_path / 'run' / 'adapter.safetensors'}:content"
    events = list(
        trainers.train(
            BLoRA(rank=4), sdxl, folder, trigger=TRIGGER, run=tmp_path / "on", init=half, **SHORT
        )
    )
    assert isinstance(events[0], trainers.Started)
    assert "start afresh" in events[0].remarks[0]
    assert read_request(tmp_path / "on").init == half


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (LoRA(rank=2), "its rank is 4: give rank 4 or more"),
        (LoRA(rank=4, dora=True), "trained without dora"),
        (DiffuseKronA(a1=8), "a LowRank change and this trains a Kron one"),
        (SaRA(threshold=0.01), "a LowRank change and this trains a Sparse one"),
    ],
)
def test_what_cannot_be_exact_is_refused(
    sdxl: Base, folder: Path, tmp_path: Path, kind: Kind, said: str
) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run", steps=1)
    with pytest.raises(BadInput, match=said):
        trainers.train(
            kind,
            sdxl,
            folder,
            trigger=TRIGGER,
            run=tmp_path / "on",
            init=tmp_path / "run" / "adapter.safetensors",
        )
    assert not (tmp_path / "on").exists()


def test_other_factors_entries_and_bases_are_refused(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learned(DiffuseKronA(a1=8), sdxl, folder, tmp_path / "kron", steps=1)
    with pytest.raises(BadInput, match="factor A is 8 x 4: give a1 8 and a2 4"):
        started(DiffuseKronA(a1=4), sdxl, tmp_path / "kron" / "adapter.safetensors")
    learned(SaRA(threshold=0.01), sdxl, folder, tmp_path / "sara", steps=1)
    file = tmp_path / "sara" / "adapter.safetensors"
    with pytest.raises(BadInput, match="weights that are not trained here"):
        started(SaRA(threshold=0.005), sdxl, file)
    more = started(SaRA(threshold=0.02), sdxl, file)
    theirs = load_adapter(file).deltas
    torch.testing.assert_close(predicted(sdxl, more), predicted(sdxl, theirs), rtol=0, atol=1e-6)
    other = load_base(tiny_sdxl(tmp_path / "other", seed=1, layers=1), device="cpu")
    with pytest.raises(BadInput, match="open that base"):
        started(SaRA(threshold=0.01), other, file)
    with pytest.raises(BadInput, match="there is no adapter"):
        trainers.check(lora_request(folder, init=tmp_path / "none.safetensors"))


def test_what_is_not_taken_over_is_said(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    """New words, and the changes of biases that peft trains."""
    deltas = new_deltas(LoRA(rank=2), sdxl, generator=torch.Generator())
    words = {"sks": {"text_encoder": torch.zeros(1, 32)}}
    first = Adapter(deltas=deltas, embeddings=words, kind="lora", family="sdxl")
    file = first.save(tmp_path / "words.safetensors")
    training = trainers.train(
        LoRA(rank=2), sdxl, folder, trigger=TRIGGER, run=tmp_path / "run", init=file
    )
    begun = next(training)
    training.close()
    assert isinstance(begun, trainers.Started)
    assert begun.remarks == ("The first adapter's new words are not taken over: sks.",)
    biased = next(delta for name, delta in deltas.items() if name.endswith("to_out.0"))
    assert isinstance(biased, LowRank)
    biased.up_bias = torch.nn.Parameter(torch.ones(biased.shape[0]))
    with pytest.raises(BadInput, match=r"to_out\.0 it changes the layer's bias"):
        started(LoRA(rank=2), sdxl, first.save(tmp_path / "biased.safetensors"))


def test_a_run_that_started_so_is_resumed_and_repeated(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    kind = LoRA(rank=4)
    learned(kind, sdxl, folder, tmp_path / "first", steps=2, lr=1e-2)
    file = tmp_path / "first" / "adapter.safetensors"

    def start(run: str):
        return trainers.train(
            kind, sdxl, folder, trigger=TRIGGER, run=tmp_path / run, init=file, **SHORT
        )

    list(start("whole"))
    for run, steps in (("early", 0), ("later", 2)):
        going = start(run)
        for event in going:
            if isinstance(event, trainers.Started if not steps else Step):
                break
        going.close()
        list(trainers.resume(tmp_path / run, sdxl))
    whole = read_request(tmp_path / "whole")
    list(trainers.run_request(replace(whole, run=tmp_path / "again"), sdxl))
    files = [tmp_path / run / "adapter.safetensors" for run in ("whole", "early", "later", "again")]
    assert len({path.read_bytes() for path in files}) == 1
    changed = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(changed, file, {"family": "sdxl"})
    with pytest.raises(BadInput, match="is no longer the one"):
        trainers.run_request(replace(whole, run=tmp_path / "third"), sdxl)
