"""Tasks on a Ray cluster, for `studio batch --ray ADDRESS` and `studio sweep --ray ADDRESS`.

Whoever asks counts how often a task's worker was lost, and Ray begins none again by itself: its own
count has no end where it was Ray that killed a worker, for want of memory. A task begins in the
folder in which it was asked for, so that a path means the same on every machine.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from studio.errors import BadInput

__all__ = ["Cluster", "Undone", "connected"]

TRIES = 3  # workers that a task may lose before it is given up
ANSWER = 5.0  # seconds for whoever listens at an address to speak as Ray does
GRACE = 30.0  # seconds for tasks that are stopped to put down what they have
# The first words of HTTP/2 (RFC 9113, section 3.4), to which any server of gRPC answers its own.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
SETTINGS = 4  # the type of its first frame


@dataclass(frozen=True)
class Undone:
    """What became of a task that gave nothing. lost: that its workers died under it."""

    reason: str
    lost: bool


@dataclass(frozen=True)
class _Task:
    key: Any
    function: Callable[..., object]
    arguments: tuple[object, ...]
    left: int


class Cluster:
    """A cluster to which this process is connected. gpus: that each task is to have."""

    def __init__(self, ray: ModuleType, gpus: int) -> None:
        self._ray, self._gpus = ray, gpus
        self._pending: dict[Any, _Task] = {}

    def keep(self, value: object) -> object:
        """Send a value once, for many tasks; what is returned stands for it among arguments."""
        return self._ray.put(value)

    def add(self, key: object, function: Callable[..., object], *arguments: object) -> None:
        """Have a function called on the cluster; key: what its outcome is told with."""
        self._begin(_Task(key, function, arguments, left=TRIES))

    def outcomes(self) -> Iterator[tuple[Any, Any]]:
        """Keys with what their functions gave, or Undone, as they are done; more may be added."""
        while self._pending:
            (done,), _ = self._ray.wait(list(self._pending), num_returns=1)
            task = self._pending.pop(done)
            found = self._found(done)
            if isinstance(found, Undone) and found.lost and task.left > 1:
                self._begin(replace(task, left=task.left - 1))
            else:
                yield task.key, found

    def stop(self) -> None:
        """Have what is left interrupted, as Ctrl-C does it, and wait until it has ended."""
        left = list(self._pending)
        for one in left:
            self._ray.cancel(one)
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=GRACE)

    def _begin(self, task: _Task) -> None:
        remote = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(_called)
        self._pending[remote.remote(os.getcwd(), task.function, *task.arguments)] = task

    def _found(self, done: object) -> object:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except errors.RayTaskError as error:  # the function's own
            cause = error.cause
            known = isinstance(cause, BadInput)
            said = str(cause) if known else f"{type(cause).__name__}: {cause}"
            return Undone(said.strip().partition("\n")[0], lost=False)
        except errors.RuntimeEnvSetupError as error:
            return Undone(str(error).strip().partition("\n")[0], lost=False)
        except errors.RayError as error:
            memory = isinstance(error, errors.OutOfMemoryError)
            why = ", the last for want of memory" if memory else ""
            return Undone(f"all {TRIES} workers that began it died{why}", lost=True)


@contextmanager
def connected(address: str, *, device: object) -> Iterator[Cluster]:
    """This process as one that gives work to a cluster; what is left of it at the end is stopped.

    address: HOST:PORT, "auto" for the cluster of this machine, "local" for one of its own.
    device: that tasks are to compute on; with other than "cpu" each has a GPU where there are any.
    Raises BadInput where Ray is not installed, and soon where no such cluster answers.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput("--ray needs Ray: pip install 'studio[ray]'") from None
    _require_answer(address)
    try:
        _connect(ray, address)
        cluster = Cluster(
            ray, gpus=1 if device != "cpu" and ray.cluster_resources().get("GPU") else 0
        )
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError, ray.exceptions.RayError) as no:
        said = " ".join(str(no).split())
        if said.startswith("Version mismatch"):
            raise BadInput(
                f"the Ray cluster at {address} is of another version of Ray or Python than this "
                f"process: install the same ones. {said}"
            ) from None
        raise BadInput(f"there is no Ray cluster at {address}: {said}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends without a word


def _require_answer(address: str) -> None:
    """BadInput unless a server of gRPC listens; Ray would try for a minute and end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address not in ("auto", "local"):
            raise BadInput(f"--ray {address} is no address: give HOST:PORT, or auto")
        return
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInput(f"--ray {address} names no port: give HOST:PORT, such as {host}:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as found:
            found.sendall(HELLO)
            frame = found.recv(9, socket.MSG_WAITALL)
    except OSError as error:
        raise BadInput(f"there is no Ray cluster at {address}: {error.strerror or error}") from None
    # Over TLS, which is Ray's own setting, nothing can be understood here.
    if (len(frame) < 9 or frame[3] != SETTINGS) and os.environ.get("RAY_USE_TLS") != "1":
        raise BadInput(
            f"what answers at {address} is no Ray cluster: its port is 6379 if none was chosen"
        )


def _called(folder: str, function: Callable[..., object], *arguments: object) -> object:
    """The task."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise BadInput(f"{socket.gethostname()} has no folder {folder}: {error.strerror}") from None
    return function(*arguments)
