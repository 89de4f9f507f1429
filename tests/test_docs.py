"""The code in the README and in the user guide runs as pasted."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ollama_server import OllamaServer
from PIL import Image

from capkit.backbones import registry
from capkit.datasets import load_digits
from capkit.exceptions import BackboneNotFoundError

ROOT = Path(__file__).parents[1]


def markdown_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rst_blocks(text: str) -> list[str]:
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


@pytest.fixture
def work_folder(tmp_path, monkeypatch):
    """An empty current folder, no network, and an Ollama server where the client looks for it."""
    monkeypatch.chdir(tmp_path)
    unreachable = BackboneNotFoundError("no network in tests")
    monkeypatch.setattr(registry, "_find_preferred", lambda cache_dir: unreachable)
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        yield tmp_path


def run(blocks: list[str], origin: str) -> dict:
    namespace: dict = {"__name__": "__main__"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{origin}, block {number}", "exec"), namespace)
    return namespace


@pytest.mark.filterwarnings("ignore:backbone='auto':UserWarning")
def test_readme_runs_as_pasted_on_a_folder_of_images(work_folder, capsys):
    folder = work_folder / "my_images"
    folder.mkdir()
    digits = load_digits(split="train")
    for row in np.flatnonzero(digits.target < 3)[:90]:
        Image.fromarray(digits.images[row]).save(folder / f"{row:04}.jpg")

    blocks = markdown_blocks((ROOT / "README.md").read_text())
    namespace = run(blocks, "README.md")

    assert len(blocks) == 3
    assert set(namespace["model"].predict(namespace["images"])) <= set(namespace["names"])
    assert set(namespace["search"].best_params_) == {"tau", "m"}
    printed = capsys.readouterr().out
    assert all(path.name in printed for path in namespace["images"][:5])


def test_user_guide_runs_as_pasted(work_folder):
    blocks = rst_blocks((ROOT / "docs" / "guide.rst").read_text())
    namespace = run(blocks, "docs/guide.rst")

    test, model = namespace["test"], namespace["model"]
    zero_shot = namespace["pipeline"].named_steps["encode"].transform(test.images).predict()
    names = np.array(test.class_names)
    assert np.mean(model.predict(test.images) == names[test.target]) > np.mean(
        zero_shot == test.target
    )
    assert {path.name for path in work_folder.iterdir()} >= {
        "capkit_cache",
        "descriptions.csv",
        "digits.capkit",
    }
