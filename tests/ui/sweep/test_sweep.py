"""Sweeps of trainings from end to end on a tiny random SDXL, and what is refused of their files."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trainers
from studio.bases.load import load_base
from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.requests.training import read_request
from ui import cli
from ui.shared.folder_lock import only_process
from ui.sweep.sweep_file import read_sweep

SHORT = "[recipe]\nsteps = 3\nbatch = 1\n"
Said = tuple[int, str, str]


@pytest.fixture
def rates(sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of two rates, beside its pictures."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(tmp_path / "photos" / f"{number}.png")
    file = tmp_path / "rates.toml"
    file.write_text(
        f'kind = "lora"\ntrigger = "sks robot"\npictures = "photos"\nbase = "{sdxl_folder}"\n'
        f"[options]\nrank = 2\n{SHORT}lr = [1e-3, 2e-3]\n"
    )
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture
def run(quick_trainings: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", *map(str, words), "--device", "cpu"])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def adapters(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("*/adapter.safetensors")}


def test_every_combination_is_the_training_that_one_would_do_by_hand(
    rates: Path, run: Callable[..., Said], sdxl_folder: Path, tmp_path: Path
) -> None:
    code, out, _ = run(rates, "--out", "out", "--json")
    rows = json.loads(out)["runs"]
    assert code == 0 and [row["settings"] for row in rows] == [{"lr": 1e-3}, {"lr": 2e-3}]
    base = load_base(sdxl_folder, device="cpu")
    for row in rows:
        losses = []
        for event in trainers.train(
            trainers.LoRA(rank=2),
            base,
            "photos",
            trigger="sks robot",
            steps=3,
            batch=1,
            lr=row["settings"]["lr"],
            run=tmp_path / "hand" / row["run"],
        ):
            losses += [event.loss] if isinstance(event, trainers.Step) else []
        assert row["loss"] == pytest.approx(sum(losses) / 3)
        hand = tmp_path / "hand" / row["run"] / "adapter.safetensors"
        ours = read_request(tmp_path / "out" / row["run"])
        assert ours.recipe["lr"] == row["settings"]["lr"]
        # The sweep draws a sample, which the file carries as its preview.
        assert tensors(tmp_path / "out" / row["file"]) == tensors(hand)
    results = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in results] == rows


def tensors(file: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(file).items()}


def test_what_is_finished_is_not_done_again_and_what_was_stopped_goes_on(
    rates: Path, run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(rates, "--out", "whole")[0] == 0
    whole = adapters(tmp_path / "whole")

    begun = trainers.run_request
    calls = 0

    def interrupted(*given: object, **options: object) -> object:
        """The second training is stopped by Ctrl-C at its second step."""
        nonlocal calls
        calls += 1
        for event in begun(*given, **options):  # type: ignore[arg-type]
            if calls == 2 and isinstance(event, trainers.Step) and event.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr(trainers, "run_request", interrupted)
    code, _, err = run(rates, "--out", "cut")
    assert code == 130 and "1 of 2 trainings are finished; --resume goes on" in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(rates, "--out", "cut")[0] == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*/*.safetensors")}
    assert len(list((tmp_path / "cut").glob("*/checkpoints/step-000002"))) == 1
    code, out, _ = run(rates, "--out", "cut", "--resume", "--json")
    assert code == 0 and (json.loads(out)["made"], json.loads(out)["there already"]) == (1, 1)
    assert adapters(tmp_path / "cut") == whole
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_folder_is_one_sweep_at_a_time(
    rates: Path, run: Callable[..., Said], tmp_path: Path
) -> None:
    with only_process(tmp_path / "out"):
        code, _, err = run(rates, "--out", "out")
    assert code == 2 and "is being made by another process" in err
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_is_named_and_stops_no_other(
    rates: Path, run: Callable[..., Said], tmp_path: Path
) -> None:
    rates.write_text(rates.read_text().replace("[1e-3, 2e-3]", "[1e30, 1e-3]"))
    code, out, _ = run(rates, "--out", "out", "--json")
    told = json.loads(out)
    assert code == 1 and (told["made"], told["failed"]) == (1, 1)
    for row in told["runs"]:
        assert row["made"] == (row["settings"]["lr"] == 1e-3)
        assert row["made"] or "the loss is NaN or Inf" in row["reason"]
    assert len(adapters(tmp_path / "out")) == 1


def test_a_dry_run_tells_how_many_and_trains_nothing(
    true_estimates: None, rates: Path, run: Callable[..., Said], tmp_path: Path
) -> None:
    code, out, _ = run(rates, "--out", "out", "--dry-run", "--json")
    told = json.loads(out)
    assert code == 0 and (told["trainings"], told["finished already"]) == (2, 0)
    assert told["seconds"] > 0 and told["bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_named_before_the_first_training(
    rates: Path, run: Callable[..., Said], tmp_path: Path
) -> None:
    (tmp_path / "photos" / "other.txt").write_text("a robot")
    (tmp_path / "photos" / "film.mov").write_bytes(b"x")
    code, out, said = run(rates, "--out", "out", "--dry-run")
    assert code == 0 and "trainings" in out
    for words in ("Left out 1 caption: other.txt belongs to", "Left out 1 video: film.mov is not"):
        assert said.count(words) == 1
    _, out, _ = run(rates, "--out", "out", "--dry-run", "--json")
    assert len(json.loads(out)["left_out"]) == 2
    code, _, said = run(rates, "--out", "out")
    assert code == 0
    assert said.index("Left out 1 video") < said.index("This will take") < said.index("Training 1")


def test_a_name_follows_from_the_settings_and_from_nothing_else(rates: Path) -> None:
    text = rates.read_text()
    names = [one.request.name for one in read_sweep(rates)]
    assert len(set(names)) == 2
    rates.write_text(text.replace("rank = 2", "rank = 2\nalpha = 8.0"))
    assert not set(names) & {one.request.name for one in read_sweep(rates)}
    rates.write_text(text.replace("rank = 2", "rank = [4, 2, 8, 2]"))
    again = [one.request.name for one in read_sweep(rates)]
    assert set(names) < set(again) and len(again) == 6


def test_a_name_follows_from_the_pictures_and_the_precision_too(rates: Path) -> None:
    def names(**loading: object) -> set[str]:
        return {one.request.name for one in read_sweep(rates, loading)}

    before, photo = names(), rates.parent / "photos" / "1.png"
    assert names(device="cpu") == before  # where it is done makes it no other
    assert not names(dtype="bf16") & before
    rates.write_text(f'dtype = "bf16"\n{rates.read_text()}')
    assert names() == names(dtype="bf16") and names(dtype="fp32") != names()
    rates.write_text(rates.read_text().partition("\n")[2])
    there = photo.read_bytes()
    photo.write_bytes((rates.parent / "photos" / "2.png").read_bytes())
    assert not names() & before
    photo.write_bytes(there)
    assert names() == before
    photo.with_suffix(".txt").write_text("sks robot on a meadow")
    assert not names() & before


def test_tables_of_their_own_take_the_place_of_what_stands_at_the_top(rates: Path) -> None:
    (rates.parent / "more").symlink_to("photos")
    rates.write_text(
        rates.read_text()
        + 'seed = "1..2"\nsample_prompts = [["a cat"], ["a dog", "a robot"]]\n'
        + '[[runs]]\ntrigger = "sks cat"\npictures = ["photos", "more"]\nweights = [1, 2]\n'
        + '[runs.options]\nrank = 8\n[[runs]]\nkind = "sara"\n[runs.options]\nshare = 0.1\n'
    )
    with pytest.raises(BadInput, match=r"line 6, rank: .*no field 'rank'"):
        read_sweep(rates)
    rates.write_text(rates.read_text().replace('kind = "sara"\n[runs.options]\nshare = 0.1\n', ""))
    first, *_, last = planned = [one.request for one in read_sweep(rates)]
    assert len(planned) == 2 * 2 * 2 * 2
    photos = Folder(rates.parent / "photos")
    assert (first.trigger, first.options["rank"]) == ("sks cat", 8)
    assert first.pictures == (photos, Folder(rates.parent / "more", 2.0))
    assert (last.trigger, last.options["rank"], last.pictures) == ("sks robot", 2, (photos,))
    assert (last.recipe["seed"], last.recipe["sample_prompts"]) == (2, ("a dog", "a robot"))


@pytest.mark.parametrize(
    ("instead", "of", "said"),
    [
        ("rnk = 4", "rank = 2", "line 6, rnk: .*did you mean 'rank'"),
        ('rank = [2, "four"]', "rank = 2", "line 6, rank: .*'four'"),
        ("rank = [2, 0]", "rank = 2", "line 6, rank: .*0"),
        ("rank = []", "rank = 2", "line 6, rank: the list is empty"),
        ("stps = 3", "steps = 3", "line 8, stps: .*did you mean 'steps'"),
        ("lr = [\n1e-3,\n-1.0]", "lr = [1e-3, 2e-3]", "line 12, lr: must be a number above 0"),
        ('pictures = "nowhere"', 'pictures = "photos"', "line 3, pictures: .*nowhere"),
        ('trigger = " "', 'trigger = "sks robot"', "line 2, trigger: .*empty"),
        ('kind = "lore"', 'kind = "lora"', "line 1, kind: .*'lore'"),
        ("", 'trigger = "sks robot"\n', "line 1, trigger: .*missing"),
        ("triger = 1\n", "", "line 1, triger: there is no such field"),
        ("[runs]\n", "[options]", "line 5, runs: write each of them as a table"),
        ("= 3", "", "line 1, .*not valid TOML"),
    ],
)
def test_a_mistake_is_told_with_its_line(rates: Path, instead: str, of: str, said: str) -> None:
    rates.write_text(rates.read_text().replace(of, instead, 1))
    with pytest.raises(BadInput, match=said):
        read_sweep(rates)


def test_what_the_base_cannot_learn_is_told_before_the_first_step(
    true_estimates: None,
    rates: Path,
    run: Callable[..., Said],
    sd1_folder: Path,
    tmp_path: Path,
) -> None:
    rates.write_text(
        f'kind = ["lora", "blora"]\nbase = "{sd1_folder}"\n'
        f'pictures = "photos"\ntrigger = "sks robot"\n{SHORT}'
    )
    code, _, err = run(rates, "--out", "out")
    assert code == 2 and "rates.toml, line " in err and not (tmp_path / "out").exists()
    rates.write_text(rates.read_text().replace(', "blora"', "") + "size = [\n64,\n65]\n")
    code, _, err = run(rates, "--out", "out")
    assert code == 2 and "rates.toml, line 10, size: 65 is not a multiple of" in err
