"""Who may import whom: studio <- trainers, compose <- ui."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"studio", "trainers", "compose", "ui"}
MAY_IMPORT = {
    "studio": {"studio"},
    "trainers": {"studio", "trainers"},
    "compose": {"studio", "compose"},
    "ui": OURS,
}
FOR_UI_ALONE = {"gradio", "typer"}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it, by statement or import_module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                found.add(module)
    return {name.partition(".")[0] for name in found}


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
