"""What users import: it exists, it is documented, and importing capkit stays quick."""

import importlib
import inspect
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import capkit

ROOT = Path(__file__).parents[1]
MODULES = [name for name in capkit.__all__ if inspect.ismodule(getattr(capkit, name))]
# Their functions are public too, for those who build on the parts.
FUNCTION_MODULES = [
    "alignment",
    "descriptions",
    "doubts",
    "gaussians",
    "guard",
    "margins",
    "prompt_choice",
    "pseudolabels",
    "space",
]


def exported_names(module) -> list[str]:
    """Classes and functions that a module exports; its constants stand in the text."""
    return [name for name in module.__all__ if not name.isupper()]


def public_names() -> set[str]:
    """Full names of everything public, each once."""
    names = {f"capkit.{name}" for name in capkit.__all__ if name[0] != "_"}
    names -= {f"capkit.{name}" for name in MODULES}
    for module in MODULES + FUNCTION_MODULES:
        exported = exported_names(importlib.import_module(f"capkit.{module}"))
        names |= {f"capkit.{module}.{name}" for name in exported if name not in capkit.__all__}
    return names


def documented_names() -> set[str]:
    """Full names listed in the autosummary tables of the API reference."""
    names, module = set(), ""
    for line in (ROOT / "docs" / "api.rst").read_text().splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.match(r"   ([A-Za-z_]\w*)$", line):
            names.add(f"{module}.{found[1]}")
    return names


@pytest.mark.parametrize("name", capkit.__all__)
def test_each_public_name_can_be_imported(name):
    assert getattr(importlib.import_module("capkit"), name) is not None
    assert name in dir(capkit)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'capkit' has no attribute 'Nothing'"):
        capkit.Nothing  # noqa: B018


@pytest.mark.parametrize("module", MODULES + FUNCTION_MODULES)
def test_public_modules_say_what_they_export(module):
    module = importlib.import_module(f"capkit.{module}")
    names = exported_names(module)
    assert names == sorted(names)
    for name in names:
        assert getattr(module, name).__doc__, name


def test_api_reference_lists_each_public_name_and_nothing_else():
    assert documented_names() == public_names()


def test_import_loads_neither_torch_nor_scikit_learn():
    code = (
        "import sys, capkit; "
        "heavy = {'torch', 'torchvision', 'open_clip', 'sklearn', 'scipy', 'numpy', 'skorch'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_version_is_that_of_the_installed_distribution():
    assert capkit.__version__ == metadata.version("capkit-clip")


def test_nothing_tells_users_to_install_another_package_called_capkit():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.rst")]
    for path in [*pages, *(ROOT / "capkit").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        wrong = re.search(r"pip install \S*capkit(?!-clip)\b", path.read_text())
        assert not wrong, f"{path}: {wrong}"
