"""The command line as a user meets it: output, files, errors in one line, exit codes."""

import csv
import subprocess
import sys
import warnings

import pytest
from archive_server import ArchiveServer, Publisher, eurosat_of_digits
from click.testing import CliRunner
from ollama_server import OllamaServer
from paper_sets import digit_fetcher
from photo_folders import NAMES, write_class_folders, write_names, write_photos

import capkit
from capkit.cli import main
from capkit.cli.options import PAPER_DATA_SETS
from capkit.exceptions import TrainingInterrupted
from capkit.reproduction import SETTINGS, Reproduction

GLYPH = ["--backbone", "glyph", "--no-cache", "--quiet"]
COMMANDS = ["label", "predict", "inspect", "compare", "reproduce", "demo", "info"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_photos(folder / "photos")
    write_names(folder / "names.txt")
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def label(folder, out, *more):
    names = folder / "names.txt"
    return run("label", folder / "photos", "--classes", names, "--out", out, *GLYPH, *more)


def test_labeling_prints_what_it_did_and_where_it_is(folder, tmp_path):
    result = label(folder, tmp_path / "labels.csv", "--tuning", "adapter")
    assert result.exit_code == 0, result.output
    assert "36 images labeled" in result.stdout
    assert "labels differ from those that the class names alone give" in " ".join(
        result.stdout.split()
    )
    for name in ("labels.csv", "labels.html", "labels.capkit"):
        assert str(tmp_path / name) in result.stdout
        assert (tmp_path / name).exists()
    assert result.stderr == ""


def test_the_next_command_takes_what_the_first_wrote(folder, tmp_path):
    options = ["--tuning", "adapter", "--no-report"]
    assert label(folder, tmp_path / "labels.csv", *options).exit_code == 0
    assert not (tmp_path / "labels.html").exists()
    model = tmp_path / "labels.capkit"
    result = run(
        "predict", model, folder / "photos", "--out", tmp_path / "new.csv", "--no-cache", "--quiet"
    )
    assert result.exit_code == 0, result.output
    first, second = (
        [row["label"] for row in csv.DictReader((tmp_path / name).open())]
        for name in ("labels.csv", "new.csv")
    )
    assert first == second


def test_a_language_model_describes_classes_whose_name_does_not_fit(folder, tmp_path):
    with OllamaServer() as server:
        result = label(
            folder, tmp_path / "labels.csv", "--no-report", "--no-model", "--tuning", "adapter",
            "--openai", server.base_url, "llama3.2",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Error" not in result.output


def test_unreadable_files_are_named_and_give_an_exit_code_of_their_own(folder, tmp_path):
    write_photos(tmp_path / "photos", n_each=4)
    for number in range(7):
        (tmp_path / "photos" / f"broken{number}.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "film.mov").touch()
    write_names(tmp_path / "names.txt")
    result = run("inspect", tmp_path / "photos", "--classes", tmp_path / "names.txt", *GLYPH)
    assert result.exit_code == 3
    assert "7 images could not be read" in result.stderr
    assert "broken0.jpg: expected a file of a format" in result.stderr
    assert "and 2 more" in result.stderr
    assert "1 .mov" in result.stderr


def test_inspecting_shows_each_class(folder, tmp_path):
    page = tmp_path / "look.html"
    result = run(
        "inspect", folder / "photos", "--classes", folder / "names.txt", "--report", page, *GLYPH
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["class", "images", "mean", "confidence"]
    assert [line.split()[0] for line in lines[1:4]] == list(NAMES)
    assert sum(int(line.split()[1]) for line in lines[1:4]) == 36
    assert page.exists()


def test_comparing_prints_a_table_of_the_chosen_methods(tmp_path):
    write_class_folders(tmp_path / "known")
    result = run(
        "compare", tmp_path / "known", "--method", "zero-shot", "--seeds", 1,
        *GLYPH,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| zero-shot |" in result.stdout
    assert "| CAP |" not in result.stdout
    unknown = run("compare", tmp_path / "known", "--method", "magic", *GLYPH)
    assert unknown.exit_code == 2 and "none of: zero-shot, labels alone" in unknown.stderr


# -- the paper's experiment


@pytest.fixture
def asked(monkeypatch):
    """What the two functions behind ``capkit reproduce`` are called with; a GPU is pretended."""
    calls = []

    class Estimate:
        has_gpu = True

    monkeypatch.setattr(
        "capkit.commands.estimate_reproduction", lambda *a, **k: calls.append((a, k)) or Estimate()
    )
    monkeypatch.setattr(
        "capkit.commands.reproduce_paper", lambda *a, **k: calls.append((a, k)) or Reproduction({})
    )
    return calls


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        (["dtd"], (1, 2, 3)),
        (["dtd", "--seeds", "4", "5", "6"], (4, 5, 6)),
        (["--seeds", "4", "5", "dtd"], (4, 5)),
        (["dtd", "--seeds", "4", "--seeds", "0"], (4, 0)),
        (["dtd", "--seeds", "4", "5", "--seeds", "6", "7"], (4, 5, 6, 7)),
        (["dtd", "--seeds=4", "5"], (4, 5)),
        (["dtd", "--seeds", "4,5,6"], (4, 5, 6)),
        (["--seeds", "4,5", "6", "--quiet", "dtd"], (4, 5, 6)),
    ],
)
def test_seeds_are_written_in_any_way(asked, arguments, seeds):
    result = run("reproduce", *arguments)
    assert result.exit_code == 0, result.output
    for positional, named in asked:
        assert positional == (("dtd",),)
        assert named["seeds"] == seeds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dtd", "--seeds"], "Option '--seeds' requires an argument"),
        (["dtd", "--seeds", "one"], "'one' is not a valid integer"),
        (["dtd", "--seeds", "--quiet"], "'--quiet' is not a valid integer"),
        (["dtd", "--quiet", "7"], "'7' is not one of 'flowers102'"),
        (["mnist"], "'mnist' is not one of 'flowers102', 'resisc45'"),
        (["dtd", "--method", "magic"], "'magic' is none of: zero-shot"),
        (["dtd", "--epochs", "0"], "0 is not in the range"),
        ([], "Missing argument 'DATASET...'"),
    ],
)
def test_what_cannot_be_reproduced_is_a_usage_error(asked, arguments, said):
    result = run("reproduce", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not asked


def test_an_experiment_is_the_papers_unless_told(asked, tmp_path):
    assert run("reproduce", "dtd", "--no-cache").exit_code == 0
    _, named = asked[-1]
    assert named["tuning"].get_params() == capkit.tuning.PromptTuning().get_params()
    assert named["paradigms"] == ("ul",)
    assert named["encoder"].backbone == "ViT-B-32/openai"
    assert named["encoder"].cache_dir is None
    assert str(named["out"]) == "reproduction" and named["data_home"] is None
    assert named["describer"] is None
    assert len(named["methods"]) == 12


def test_options_of_an_experiment_reach_it(asked, tmp_path):
    texts = tmp_path / "texts.csv"
    texts.write_text("class_name,description\nbanded,wide stripes\n")
    result = run(
        "reproduce", "dtd", "all", "--paradigm", "all", "--tuning", "adapter", "--epochs", 3,
        "--method", "CAP", "--data", tmp_path, "--out", tmp_path / "out", "--batch-size", 9,
        "--jobs", 2, "--device", "cpu", "--backbone", "glyph", "--descriptions", texts,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    texts.unlink()  # a run is known by what was in it
    (positional, estimated), (_, named) = asked
    assert positional == (("dtd", "all"),)
    assert estimated["paradigms"] == named["paradigms"] == ("ul", "ssl", "trzsl")
    assert named["tuning"].name == "adapter" and named["tuning"].epochs == 3
    assert named["methods"] == ["CAP"]
    assert (named["data_home"], named["out"]) == (tmp_path, tmp_path / "out")
    encoder = named["encoder"]
    assert (encoder.batch_size, encoder.n_jobs, encoder.device) == (9, 2, "cpu")
    assert encoder.backbone == "glyph"
    assert named["describer"]("banded") == ["wide stripes"]


def test_without_a_gpu_it_says_how_long_it_takes_and_downloads_nothing(tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr("capkit.datasets.fetch_eurosat", fetch, raising=False)
    result = run(
        "reproduce", "eurosat", "--method", "CAP", "--seeds", 1, "--out", tmp_path / "out",
        "--device", "cpu", *GLYPH,
    )  # fmt: skip
    assert result.exit_code == 2
    said, refused = result.stderr.splitlines()
    assert said.startswith("This takes about ") and "2500 steps in 1 training, up to" in said
    assert refused == "There is no GPU. To start all the same, pass --yes."
    assert not (tmp_path / "out").exists()


def test_an_experiment_downloads_its_data_set_once(tmp_path, monkeypatch):
    with ArchiveServer() as server:
        Publisher("eurosat", server, monkeypatch).publish(eurosat_of_digits(n_of_class=20))
        arguments = (
            "reproduce", "eurosat", "--method", "zero-shot", "--method", "CAP", "--seeds", 1,
            "--tuning", "adapter", "--epochs", 1, "--data", tmp_path / "data", "--out",
            tmp_path / "out", "--yes", "--device", "cpu", *GLYPH,
        )  # fmt: skip
        first = run(*arguments)
        assert first.exit_code == 0, first.output
        n_requests = len(server.requests)
        again = run(*arguments)
    assert n_requests == len(server.requests) == 1
    assert again.stdout == first.stdout
    with (tmp_path / "out" / "eurosat_ul_glyph_adapter_epochs-1.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Every fifth picture is for testing.
    numbers = {(row["method"], row["on"]): int(row["n_images"]) for row in rows}
    assert numbers == {
        ("zero-shot", "adapted"): 48,
        ("zero-shot", "new"): 12,
        ("CAP", "adapted"): 48,
        ("CAP", "new"): 12,
    }
    assert all(float(row["accuracy"]) > 0.8 and not row["error"] for row in rows)


def test_an_experiment_ends_with_tables_and_files(tmp_path, monkeypatch):
    fetch = digit_fetcher(tmp_path / "set")
    monkeypatch.setattr("capkit.datasets.fetch_eurosat", fetch, raising=False)
    result = run(
        "reproduce", "eurosat", "--method", "zero-shot", "--method", "CAP (paper)", "--seeds",
        "1", "2", "--tuning", "adapter", "--epochs", 1, "--out", tmp_path / "out", "--yes",
        "--device", "cpu", *GLYPH,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| zero-shot | 100.0 ± 0.0 |\n" in result.stdout
    assert "the backbone is glyph; tuning is adapter, not prompt; epochs is 1" in result.stdout
    written = tmp_path / "out" / "eurosat_ul_glyph_adapter_epochs-1.csv"
    assert result.stdout.endswith(f"tables  {written}\n")
    assert len(written.read_text().splitlines()) == 1 + 2 * 2 * 2


def test_the_data_sets_that_can_be_named_are_those_with_settings():
    assert list(PAPER_DATA_SETS) == list(SETTINGS)


def test_info_starts_with_the_version():
    result = run("info")
    assert result.exit_code == 0
    assert result.stdout.startswith("capkit") and capkit.__version__ in result.stdout


# -- what goes wrong


def test_an_error_is_one_line_that_says_what_to_do(folder, tmp_path):
    (tmp_path / "names.txt").write_text("zero\nzero\n")
    result = run(
        "label", folder / "photos", "--classes", tmp_path / "names.txt",
        "--out", tmp_path / "labels.csv", *GLYPH,
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ") and "zero" in result.stderr
    assert not (tmp_path / "labels.csv").exists()


def test_traceback_shows_where_an_error_comes_from(folder, tmp_path):
    (tmp_path / "names.txt").write_text("zero\nzero\n")
    result = run(
        "--traceback", "label", folder / "photos", "--classes", tmp_path / "names.txt",
        "--out", tmp_path / "labels.csv", *GLYPH,
    )  # fmt: skip
    assert isinstance(result.exception, capkit.exceptions.ClassNamesError)


def test_a_backbone_that_is_not_there_is_one_line(folder, tmp_path):
    names = folder / "names.txt"
    result = run(
        "label", folder / "photos", "--classes", names, "--out", tmp_path / "labels.csv",
        "--backbone", "ViT-B-33/openai", "--no-cache",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "Did you mean 'ViT-B-32/openai'" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report", "a.html", "--no-report"], "--report and --no-report"),
        (["--model", "a.capkit", "--no-model"], "--model and --no-model"),
        (["--cache", "cache", "--no-cache"], "--cache and --no-cache"),
        (["--ollama", "llama3.2", "--descriptions", __file__], "--descriptions and --ollama"),
        (["--ollama", "llama3.2", "--openai", "http://localhost", "m"], "--ollama and --openai"),
        (["--api-key-env", "KEY"], "--api-key-env is for --openai"),
        (["--paradigm", "supervised"], "'supervised' is not one of"),
        (["--labels", "nowhere.csv"], "does not exist"),
    ],
)
def test_arguments_that_cannot_be_are_a_usage_error(folder, tmp_path, options, said):
    result = label(folder, tmp_path / "labels.csv", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_an_interrupt_has_its_own_exit_code(folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise TrainingInterrupted("fit was interrupted: this CAPClassifier is not fitted.")

    monkeypatch.setattr("capkit.classifier.CAPClassifier.fit", interrupt)
    result = label(folder, tmp_path / "labels.csv")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted. fit was interrupted: this CAPClassifier is not fitted.\n"


def test_a_warning_is_one_line(monkeypatch):
    def describe():
        warnings.warn("two\nlines", UserWarning, stacklevel=1)
        return {"a": "b"}

    monkeypatch.setattr("capkit.commands.describe_installation", describe)
    assert run("info").stderr == "Warning: two lines\n"


# -- help


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    if command != "info":
        assert f"  capkit {command}" in result.stdout
        assert "Exit codes: 0 done" in result.stdout


def test_help_lists_the_commands_in_the_order_of_their_use_without_loading_torch():
    code = "import sys; from capkit.cli import main; main(['--help'], standalone_mode=False); "
    code += "print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    listed = [line.split()[0] for line in output.partition("Commands:")[2].splitlines()[1:8]]
    assert listed == COMMANDS
    assert output.endswith("False\n")


def test_python_m_capkit_is_the_command():
    output = subprocess.run(
        [sys.executable, "-m", "capkit", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert output == f"capkit, version {capkit.__version__}\n"
