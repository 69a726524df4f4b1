"""Tasks on a Ray cluster, for `studio batch --ray ADDRESS` and `studio sweep --ray ADDRESS`.

A task whose worker dies is started again, a few times. The tries are counted here, because Ray's
own retries have no limit if it killed the worker when memory ran out. Tasks run in the folder in
which the command was started, so that paths mean the same on every machine.
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

TRIES = 3  # workers that may die under a task before it counts as failed
ANSWER = 5.0  # seconds to wait for an answer from an address
GRACE = 30.0  # seconds that stopped tasks have to save their work
# The preface of HTTP/2 (RFC 9113, section 3.4). A gRPC server, as Ray's is, answers with its own.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
SETTINGS = 4  # type of the first frame of that answer


@dataclass(frozen=True)
class TaskFailure:
    """Why a task has no result. lost: whether its workers died."""

    reason: str
    lost: bool


@dataclass(frozen=True)
class _Task:
    key: Any
    function: Callable[..., object]
    arguments: tuple[object, ...]
    tries: int


class Cluster:
    """A cluster to which this process is connected. gpus: the number for each task."""

    def __init__(self, ray: ModuleType, gpus: int) -> None:
        self._ray, self._gpus = ray, gpus
        self._pending: dict[Any, _Task] = {}

    def keep(self, value: object) -> object:
        """Send a value once for many tasks; pass the returned object to tasks in its place."""
        return self._ray.put(value)

    def add(self, key: object, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the cluster. key: comes back with the function's result."""
        self._start(_Task(key, function, arguments, tries=TRIES))

    def outcomes(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, result or TaskFailure) as tasks end. Tasks may be added meanwhile."""
        while self._pending:
            (done,), _ = self._ray.wait(list(self._pending), num_returns=1)
            task = self._pending.pop(done)
            result = self._result(done)
            if isinstance(result, TaskFailure) and result.lost and task.tries > 1:
                self._start(replace(task, tries=task.tries - 1))
            else:
                yield task.key, result

    def stop(self) -> None:
        """Interrupt the unfinished tasks, as Ctrl-C would, and wait until they end."""
        tasks = list(self._pending)
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)

    def _start(self, task: _Task) -> None:
        remote = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(_run_in)
        self._pending[remote.remote(os.getcwd(), task.function, *task.arguments)] = task

    def _result(self, done: object) -> object:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except errors.RayTaskError as error:  # raised by the function itself
            cause = error.cause
            expected = isinstance(cause, BadInput)
            text = str(cause) if expected else f"{type(cause).__name__}: {cause}"
            return TaskFailure(_first_line(text), lost=False)
        except errors.RuntimeEnvSetupError as error:
            return TaskFailure(_first_line(str(error)), lost=False)
        except errors.RayError as error:
            memory = isinstance(error, errors.OutOfMemoryError)
            why = ", the last because memory ran out" if memory else ""
            return TaskFailure(f"all {TRIES} workers that started it died{why}", lost=True)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


@contextmanager
def connect(address: str, *, device: object) -> Iterator[Cluster]:
    """Connect this process to a cluster; tasks that are unfinished at the end are stopped.

    address: HOST:PORT, "auto" for the cluster of this machine, "local" to start one.
    device: where tasks compute. Unless it is "cpu", each task gets a GPU if the cluster has any.
    Raises BadInput if Ray is not installed, and within seconds if no cluster answers.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput("--ray needs Ray: pip install 'studio[ray]'") from None
    _require_answer(address)
    try:
        _init(ray, address)
        use_gpu = device != "cpu" and ray.cluster_resources().get("GPU")
        cluster = Cluster(ray, gpus=1 if use_gpu else 0)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        ray.shutdown()


def _init(ray: ModuleType, address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (
        ConnectionError,
        TimeoutError,
        ValueError,
        RuntimeError,
        ray.exceptions.RayError,
    ) as error:
        text = " ".join(str(error).split())
        if text.startswith("Version mismatch"):
            raise BadInput(
                f"the Ray cluster at {address} has another version of Ray or Python than this "
                f"process: install the same versions. {text}"
            ) from None
        raise BadInput(f"there is no Ray cluster at {address}: {text}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray's own handler ends without a message


def _require_answer(address: str) -> None:
    """Raise BadInput unless a gRPC server answers: Ray would try for a minute, then exit."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address not in ("auto", "local"):
            raise BadInput(f"--ray {address} is not an address: give HOST:PORT, or auto")
        return
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInput(f"--ray {address} has no valid port: give HOST:PORT, such as {host}:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as server:
            server.sendall(HELLO)
            frame = server.recv(9, socket.MSG_WAITALL)
    except OSError as error:
        raise BadInput(f"there is no Ray cluster at {address}: {error.strerror or error}") from None
    # With TLS, which RAY_USE_TLS turns on, the answer cannot be read here.
    if (len(frame) < 9 or frame[3] != SETTINGS) and os.environ.get("RAY_USE_TLS") != "1":
        raise BadInput(
            f"the server at {address} is not a Ray cluster: Ray's own port is 6379 by default"
        )


def _run_in(folder: str, function: Callable[..., object], *arguments: object) -> object:
    """Run a task in a folder."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise BadInput(f"{socket.gethostname()} has no folder {folder}: {error.strerror}") from None
    return function(*arguments)
