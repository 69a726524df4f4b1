"""Captions written by a model in a process of its own: the page's server has no PyTorch.

The process reads its task as JSON from stdin and prints a line of JSON for each picture.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from studio.dataset.captioner import open_captioner
from studio.errors import BadInput
from ui.shared.subprocesses import module_command, module_environment


class CaptionProcess:
    """One that writes captions; `results` tells them one by one, `end` breaks it off."""

    def __init__(self, model: str, pictures: Sequence[Path]) -> None:
        self._ended = False
        self._process = subprocess.Popen(
            module_command("ui.web.train.dataset.caption_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=module_environment(),
        )
        task = {"model": model, "pictures": [str(one) for one in pictures]}
        if self._process.stdin:
            self._process.stdin.write(json.dumps(task))
            self._process.stdin.close()

    def results(self) -> Iterator[tuple[str, str]]:
        """A picture's name and its caption, as they come; BadInput where the model can't be used.

        Ends early where the process is ended.
        """
        try:
            for line in self._process.stdout or ():
                answer = json.loads(line)
                if "wrong" in answer:
                    raise BadInput(answer["wrong"])
                yield answer["name"], answer["caption"]
            if self._process.wait() and not self._ended:
                raise BadInput("the captioner ended by itself; the machine may lack memory for it")
        finally:
            self.end()
            if self._process.stdout:
                self._process.stdout.close()

    def end(self) -> None:
        """Break it off; what it told so far stands."""
        self._ended = True
        self._process.kill()
        self._process.wait()


def _run(task: dict) -> None:
    try:
        captioner = open_captioner(task["model"])
        for path in map(Path, task["pictures"]):
            print(json.dumps({"name": path.name, "caption": captioner.caption(path)}), flush=True)
    except BadInput as error:
        print(json.dumps({"wrong": str(error)}), flush=True)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(5)
    _run(json.load(sys.stdin))
