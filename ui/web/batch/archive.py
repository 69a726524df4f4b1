"""Make a zip of a batch to download."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from studio.errors import BadInput
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.workspace import Workspace
from ui.batch.contact_sheet import write_sheets
from ui.shared.queue_requests import made_pictures
from ui.web.server.downloads import write_download

Picture = tuple[str, Path, Shot]  # name in the zip, file, shot


def zipped(space: Workspace, job: Job) -> Path:
    """Zip the pictures that a batch has made, with results.jsonl and contact sheets.

    Returns the path of the download. Raises BadInput where there is no picture.
    """
    if not job.finished_results:
        raise BadInput("this batch has made no picture yet")
    pictures = [
        (f"{number + 1:04d}-{made.path.name.partition('-')[2] or made.path.name}", made.path, shot)
        for number, shot, made in made_pictures(space, job)
    ]
    if not pictures:
        raise BadInput("the pictures of this batch were deleted")
    return write_download(
        space, f"batch-{job.id}.zip", lambda path: _write_zip(space, job.title, pictures, path)
    )


def _write_zip(space: Workspace, title: str, pictures: Sequence[Picture], path: Path) -> None:
    with TemporaryDirectory(dir=space.cache) as scratch, ZipFile(path, "w") as archive:
        folder, lines = Path(scratch), list[str]()
        for name, file, shot in pictures:
            (folder / name).symlink_to(file)  # contact sheets are drawn from one folder
            archive.write(file, name)
            line = {"file": name, "made": True} | shot_to_dict(shot)
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        names, shots = [name for name, *_ in pictures], [shot for *_, shot in pictures]
        write_sheets(folder, title, shots, names, {})
        for sheet in sorted(folder.glob("sheet*")):
            archive.write(sheet, sheet.name)
        archive.writestr("results.jsonl", "".join(lines))
