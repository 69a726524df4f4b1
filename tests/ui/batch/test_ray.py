"""Batches made by a Ray cluster of two machines, which are this one, and what they survive."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from studio.errors import BadInput
from tests.benchmarks.kills import files, write_manifest
from tests.ui.shared import deadly
from ui import cli
from ui.batch.plan import plan_batch
from ui.batch.runner import PictureFailed, PictureWritten, run_batch
from ui.shared.ray_cluster import connect

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -e '.[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
ROOT = Path(__file__).resolve().parents[3]
# Ray puts this machine's address in the place of 127.0.0.1, but where its clusters are of one
# machine only; so nobody else can reach this one.
HERE = "ray._private.ray_constants.ENABLE_RAY_CLUSTER"
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}
# How soon a machine that is gone is known to be gone.
SOON = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500}
SOON |= {"health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two machines with one processor each, begun in another folder than this."""
    asked = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HERE, False)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        head = NODE | {"include_dashboard": False, "_system_config": SOON}
        both = Cluster(initialize_head=True, head_node_args=head)
        try:
            both.add_node(**NODE)
            yield both
        finally:
            ray.shutdown()
            both.shutdown()
            for number, handler in asked.items():
                signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a manifest of eight groups of two shots, and in `one` what one process made."""
    folder = tmp_path_factory.mktemp("faces")
    write_manifest(folder, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("compose.engine.evaluate.MOST_ON_CPU", 4 * 64)
        assert ended("batch", "faces.toml", "--out", "one", "--device", "cpu") == 0
    return folder


@pytest.fixture(autouse=True)
def there(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the manifest's folder, with groups of two shots."""
    monkeypatch.chdir(whole)
    monkeypatch.setattr("compose.engine.evaluate.MOST_ON_CPU", 4 * 64)


def ended(*words: object) -> int:
    with pytest.raises(SystemExit) as error:
        cli.main([str(word) for word in words])
    return int(error.value.code or 0)


def at_work(function: str = "_called") -> list[psutil.Process]:
    """The processes of this machine's cluster that do a task just now."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if one.info["cmdline"][:1] == [f"ray::{function}"]]


def batch_of(cluster: Cluster, out: Path) -> Iterator[PictureWritten | PictureFailed]:
    """What a batch on the cluster tells, as it is made."""
    plan = plan_batch(Path("faces.toml"), out, resume=True)
    for event in run_batch(plan, {"device": "cpu"}, ray=cluster.address):
        assert isinstance(event, PictureWritten | PictureFailed), event
        yield event


def made_by(cluster: Cluster, out: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """How many pictures `studio batch` makes on the cluster."""
    capsys.readouterr()
    words = ("faces.toml", "--out", out, "--device", "cpu", "--resume", "--json")
    assert ended("batch", *words, "--ray", cluster.address) == 0
    return json.loads(capsys.readouterr().out)["made"]


def test_a_cluster_makes_the_files_of_one_process(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made_by(cluster, tmp_path, capsys) == 16
    assert files(tmp_path) == files(Path("one"))


def test_what_a_killed_worker_had_is_made_by_another(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = batch_of(cluster, tmp_path)
    next(events)
    killed = at_work()
    for one in killed:
        one.kill()
    assert killed and len(list(events)) == 15
    assert files(tmp_path) == files(Path("one"))
    assert made_by(cluster, tmp_path, capsys) == 0


def test_a_shot_that_kills_every_worker_is_named_and_the_others_are_made(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.batch.ray_groups._make", deadly.no_dog)
    monkeypatch.setattr("ui.shared.ray_cluster.TRIES", 2)
    events = list(batch_of(cluster, tmp_path))
    assert [event.reason for event in events if isinstance(event, PictureFailed)] == [
        "all 2 workers that started it died"
    ]
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    (lost,) = [line for line in lines if not line["made"]]
    assert (lost["prompt"], lost["seed"], lost["adapters"]) == ("a dog", 2, [])
    assert len(events) == len(lines) == 16


def test_what_a_machine_had_that_is_gone_is_made_by_the_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    events = batch_of(cluster, tmp_path)
    next(events)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert len(list(events)) == 15
    assert files(tmp_path) == files(Path("one"))
    cluster.add_node(**NODE)


def test_a_stop_interrupts_what_the_workers_do(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.batch.ray_groups._make", deadly.sleep)
    here = Path()

    def stop() -> None:
        until = time.monotonic() + 60
        while len(list(here.glob("asleep-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    words = ("faces.toml", "--out", tmp_path, "--device", "cpu", "--ray", cluster.address)
    assert ended("batch", *words) == 130
    asleep = {path.name.replace("asleep", "interrupted") for path in here.glob("asleep-*")}
    assert asleep == {path.name for path in here.glob("interrupted-*")}
    assert len(asleep) == 2 and not list(tmp_path.glob("*.png"))


def test_another_version_of_ray_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with (
        pytest.raises(BadInput, match=r"another version of Ray.*2\.0\.0"),
        connect(cluster.address, device="cpu"),
    ):
        pass
    assert not ray.is_initialized()


def test_a_sweep_goes_on_where_a_lost_worker_was(
    cluster: Cluster, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photos" / "one.png")
    (tmp_path / "rates.toml").write_text(
        f'kind = "lora"\ntrigger = "sks robot"\npictures = "photos"\nbase = "{whole}/model"\n'
        "[recipe]\nsteps = 3\nbatch = 1\nsave_every = 2\nlr = [1e-3, 2e-3]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert ended("sweep", "rates.toml", "--out", "one", "--device", "cpu") == 0
    monkeypatch.setattr("ui.sweep.runner._train_task", deadly.die_once)
    words = ("sweep", "rates.toml", "--out", "ray", "--device", "cpu")
    assert ended(*words, "--ray", cluster.address) == 0
    made = {path.parent.name: path.read_bytes() for path in Path("ray").glob("*/*.safetensors")}
    assert len(made) == 2
    for name, content in made.items():
        assert (Path("one") / name / "adapter.safetensors").read_bytes() == content
    assert Path("ray/results.jsonl").read_bytes() == Path("one/results.jsonl").read_bytes()
