"""Who may import whom: studio <- trainers, compose <- ui."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import compose
import studio
import trainers

ROOT = Path(__file__).resolve().parent.parent
OURS = {"studio", "trainers", "compose", "ui"}
MAY_IMPORT = {
    "studio": {"studio"},
    "trainers": {"studio", "trainers"},
    "compose": {"studio", "compose"},
    "ui": OURS,
}
FOR_UI_ALONE = {"gradio", "typer"}


def imported_names(path: Path) -> set[str]:
    """What a file imports, anywhere in it, by statement or import_module, dotted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found |= {f"{module}.{alias.name}" for alias in names}
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                found.add(module)
    return found


def imports(path: Path) -> set[str]:
    """The top-level packages of these."""
    return {name.partition(".")[0] for name in imported_names(path)}


def modules() -> dict[str, Path]:
    """Our modules by dotted name, but for packages, which only tell what is in them."""
    files = [path for package in OURS for path in (ROOT / package).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in files
        if path.name != "__init__.py"
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Nor late, nor for their types only: what is in a circle can only be read together."""
    ours = modules()
    graph = {
        name: {module for found in imported_names(path) for module in known(found, ours)}
        for name, path in ours.items()
    }
    assert sum(map(len, graph.values())) > 1000
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def known(name: str, ours: dict[str, Path]) -> set[str]:
    """The module that is imported by this name, or that has it."""
    return {one for one in (name, name.rpartition(".")[0]) if one in ours}


def test_no_folder_is_crowded() -> None:
    for folder in {path.parent for path in modules().values()}:
        assert len(list(folder.glob("*.py"))) <= 16, folder


@pytest.mark.parametrize("package", sorted(OURS))
def test_packages_import_downwards_only(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imports(path) & OURS - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", sorted(OURS - {"ui"}))
def test_only_ui_knows_of_screens(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        wrong = imports(path) & FOR_UI_ALONE
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_reader_of_imports_sees_every_way_of_importing(tmp_path: Path) -> None:
    source = tmp_path / "some.py"
    source.write_text(
        "import ui.cli\ndef late():\n    from compose import render\n"
        "import_module('trainers.lora')\nimportlib.import_module('gradio')\n"
    )
    assert imports(source) == {"ui", "compose", "trainers", "gradio"}


@pytest.mark.parametrize(
    "module",
    ["studio", "studio.adapters.describe", "studio.requests.shot", "trainers", "compose", "ui.cli"],
)
def test_importing_a_package_does_not_import_pytorch(module: str) -> None:
    heavy = {"torch", "diffusers", "transformers", "accelerate", "gradio", "numpy"}
    heavy |= {"huggingface_hub", "pydantic"}  # a fifth of a second and a tenth
    program = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [studio, trainers, compose])
def test_what_is_imported_late_is_suggested_too(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
