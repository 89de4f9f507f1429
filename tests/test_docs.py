"""The code in the README, on the first page and in the user guide runs as pasted."""

import csv
import re
import shlex
import textwrap
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from ollama_server import OllamaServer
from PIL import Image

from capkit import CAPClassifier
from capkit.backbones import registry
from capkit.baselines import ZeroShotClassifier
from capkit.cli import main
from capkit.datasets import load_digits
from capkit.image_files import find_images

ROOT = Path(__file__).parents[1]


def markdown_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rst_blocks(text: str) -> list[str]:
    pattern = r"^( *)\.\. code-block:: python\n\n((?:\1   .*\n|\n)+)"
    blocks = [code for _, code in re.findall(pattern, text, re.MULTILINE)]
    return [textwrap.dedent(block) for block in blocks]


@pytest.fixture
def work_folder(tmp_path, monkeypatch):
    """An empty current folder, a small CLIP, and an Ollama server where the client looks."""
    monkeypatch.chdir(tmp_path)
    small = registry._find_local("glyph", registry._EMBEDDED_FILES["glyph"])
    monkeypatch.setattr(registry, "_find_preferred", lambda cache_dir: small)
    monkeypatch.setattr(registry, "_loaded", {})
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        yield tmp_path


def run(blocks: list[str], origin: str) -> dict:
    namespace: dict = {"__name__": "__main__"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{origin}, block {number}", "exec"), namespace)
    return namespace


def write_digits(folder: Path, *, of_class: bool = False) -> None:
    digits = load_digits(split="train")
    for row in np.flatnonzero(digits.target < 3)[:90]:
        place = folder / digits.class_names[digits.target[row]] if of_class else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[row]).save(place / f"{row:04}.JPG")


def test_readme_runs_as_pasted_on_a_folder_of_images(work_folder, capsys, monkeypatch):
    few = {"zero-shot": ZeroShotClassifier(), "CAP": CAPClassifier(tuning="adapter")}
    monkeypatch.setattr("capkit.comparison.protocol.all_methods", lambda: few)
    write_digits(work_folder / "my_images")
    write_digits(work_folder / "known_images", of_class=True)

    blocks = markdown_blocks((ROOT / "README.md").read_text())
    namespace = run(blocks, "README.md")

    assert len(blocks) == 4
    assert len(namespace["images"]) == 90
    assert set(namespace["model"].predict(namespace["images"])) <= set(namespace["names"])
    assert set(namespace["search"].best_params_) == {"tau", "m"}
    assert set(namespace["comparison"].table["error"]) == {""}
    assert (work_folder / "comparison.png").exists()
    printed = capsys.readouterr().out
    assert "| zero-shot |" in printed
    assert all(path.name in printed for path in namespace["images"][:5])


def commands(text: str) -> list[list[str]]:
    """Calls of capkit in the console blocks, and in the code of sentences, of the README."""
    text = re.sub(r"\s*\n\s*", " ", text.split("## In Python")[0])
    found = re.findall(
        r"capkit (?:label|predict) [^`]*?--out \S+?\.csv(?: --labels \S+?\.csv)?", text
    )
    return [shlex.split(line)[1:] for line in dict.fromkeys(found)]


def test_first_screen_of_the_readme_runs_as_pasted(work_folder):
    write_digits(work_folder / "photos")
    write_digits(work_folder / "new_photos")
    (work_folder / "names.txt").write_text("zero\none\ntwo\n")
    (work_folder / "corrections.csv").write_text(
        "path,label\n" + "".join(f"{path.name},one\n" for path in find_images("photos").paths[:2])
    )
    lines = commands((ROOT / "README.md").read_text())
    assert [line[0] for line in lines] == ["label", "label", "predict"]
    for line in lines:
        quick = ["--tuning", "adapter"] if line[0] == "label" else []  # glyph takes prompts
        result = CliRunner().invoke(main, [*line, "--quiet", "--no-cache", *quick])
        assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((work_folder / "labels.csv").open()))
    assert len(rows) == 90 and [row["label"] for row in rows[:2]] == ["one", "one"]
    assert {"labels.html", "labels.capkit", "new_labels.csv"} <= {
        path.name for path in work_folder.iterdir()
    }


def test_first_page_runs_as_pasted(work_folder, capsys):
    blocks = rst_blocks((ROOT / "docs" / "index.rst").read_text())
    namespace = run(blocks, "docs/index.rst")
    assert "without a label" in capsys.readouterr().out
    digits, new = namespace["digits"], namespace["new"]
    labels = namespace["pipeline"].predict(new.images)
    assert np.mean(labels == np.array(digits.class_names)[new.target]) > 0.9


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


def test_the_gallery_shows_each_example():
    conf = (ROOT / "docs" / "conf.py").read_text()
    listed = re.findall(r'"(\w+\.py)"', conf.split("EXAMPLES = [")[1].split("]")[0])
    assert sorted(listed) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))
