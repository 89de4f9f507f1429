"""The code of every how-to page runs as pasted, in the order of its page."""

import ast
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import matplotlib
import pytest
from click.testing import CliRunner
from photo_folders import NAMES, digits_of, write_names, write_photos

from capkit import CAPClassifier
from capkit.cli import main
from capkit.tuning import AdapterTuning

PAGES = sorted((Path(__file__).parents[1] / "docs" / "howto").glob("*.rst"))
BLOCK = re.compile(
    r"(?P<not_run>^\.\. not run: .+\n\n)?"
    r"^\.\. code-block:: (?P<language>python|console)\n\n(?P<code>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
# Nothing is downloaded, and no prompts are trained.
QUICK = {
    "label": ["--backbone", "glyph", "--tuning", "adapter", "--no-cache", "--quiet"],
    "predict": ["--no-cache", "--quiet"],
    "inspect": ["--backbone", "glyph", "--no-cache", "--quiet"],
}


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    images, _ = digits_of(12)
    classifier = CAPClassifier(backbone="glyph", tuning=AdapterTuning(epochs=1))
    classifier.fit(images, class_names=NAMES).save(folder / "labels.capkit")
    return folder / "labels.capkit"


@pytest.fixture
def work_folder(tmp_path, monkeypatch, saved_model):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    for name in ("photos", "new_photos"):
        write_photos(tmp_path / name)
    shutil.copy(saved_model, tmp_path)
    write_names(tmp_path / "names.txt")
    for name in ("corrections.csv", "monday.csv", "tuesday.csv"):
        (tmp_path / name).write_text(
            "path,label\n001.png,one\n002.png,two\n004.png,one\n005.png,two\n"
        )
    return tmp_path


def run_line(line: str) -> None:
    """Run a command of capkit; of one that would download something, look at its options alone."""
    program, command, *arguments = shlex.split(line)
    if program != "capkit":
        return
    if command not in QUICK or {"--backbone", "--device"} & set(arguments):
        text = CliRunner().invoke(main, [command, "--help"]).output
        unknown = [option for option in arguments if option[:2] == "--" and option not in text]
        assert not unknown, f"{line} has {unknown}"
        return
    result = CliRunner().invoke(main, [command, *arguments, *QUICK[command]])
    assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_as_pasted(page, work_folder):
    namespace: dict = {"__name__": "__main__"}
    for number, block in enumerate(BLOCK.finditer(page.read_text()), start=1):
        code, origin = textwrap.dedent(block["code"]), f"{page.name}, block {number}"
        if block["language"] == "console":
            lines = re.findall(r"^\$ ((?:.*\\\n)*.*)", code, re.MULTILINE)
            for line in lines if not block["not_run"] else []:
                run_line(line.replace("\\\n", " "))
        elif block["not_run"]:
            ast.parse(code, origin)
        else:
            exec(compile(code, origin, "exec"), namespace)
    if "accuracies" in namespace:  # what a page compares ends with the best
        accuracies = list(namespace["accuracies"].values())
        assert accuracies[-1] == max(accuracies)


def test_there_is_a_page_for_each_line_of_the_index():
    index = next(page for page in PAGES if page.stem == "index").read_text()
    listed = re.findall(r"^- :doc:`(\w+)`", index, re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in PAGES if page.stem != "index")
