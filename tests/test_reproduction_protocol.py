"""The experiment on a tiny set: what methods get, what is kept, how a killed run goes on."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paper_sets import N_CLASSES, N_TEST, N_TRAIN, TEMPLATE, digit_fetcher

from capkit import CAPClassifier, CLIPEncoder
from capkit.reproduction import SETTINGS
from capkit.reproduction.protocol import run_protocol
from capkit.tuning import AdapterTuning, PromptTuning

pd = pytest.importorskip("pandas")
pytest.importorskip("psutil")

ROOT = Path(__file__).parents[1]
TINY = dataclasses.replace(
    SETTINGS["eurosat"], n_classes=N_CLASSES, n_train=N_TRAIN, n_test=N_TEST, k=3
)
SHORT = AdapterTuning(epochs=2, steps_per_epoch=2)


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    fetch = digit_fetcher(tmp_path / "set")
    monkeypatch.setattr("capkit.datasets.fetch_eurosat", fetch, raising=False)
    return fetch


def run(out, *, settings=TINY, methods=("zero-shot",), paradigms=("ul",), seeds=(1,), **changes):
    arguments = {
        "encoder": CLIPEncoder("glyph", device="cpu"),
        "tuning": SHORT,
        "data_home": None,
        **changes,
    }
    return run_protocol(
        [settings], methods=methods, paradigms=paradigms, seeds=seeds, out=out, **arguments
    )


def test_methods_are_judged_on_the_test_images_with_the_template_of_the_set(fetch, tmp_path):
    table = run(tmp_path / "out").table
    test = fetch(None, split="test")
    encoder = CLIPEncoder("glyph", template=TEMPLATE, class_names=test.class_names)
    right = encoder.fit_transform(test.paths).predict() == test.target
    new = table[table["on"] == "new"].iloc[0]
    assert new["score"] == pytest.approx(right.mean())
    assert new["n_images"] == N_TEST
    assert table[table["on"] == "adapted"].iloc[0]["n_images"] == N_TRAIN


def test_prompts_are_made_with_the_template_of_the_set(fetch, tmp_path, monkeypatch):
    prompts = []
    fit = CAPClassifier.fit

    def note(self, space, labels):
        prompts.append(space.prompts)
        return fit(self, space, labels)

    monkeypatch.setattr(CAPClassifier, "fit", note)
    run(tmp_path / "out", methods=["CAP"])
    assert prompts == [("the digit zero", "the digit one", "the digit two", "the digit three")]


def test_each_set_and_paradigm_has_a_file_with_a_row_for_each_run(fetch, tmp_path):
    methods = ("zero-shot", "labels alone", "CAP")
    result = run(tmp_path / "out", methods=methods, paradigms=("ul", "ssl", "trzsl"), seeds=(1, 2))
    names = [path.name for path in result.written]
    assert names == [
        f"eurosat_{paradigm}_glyph_adapter_epochs-2_steps_per_epoch-2.csv"
        for paradigm in ("ul", "ssl", "trzsl")
    ]
    ul, ssl, _ = (pd.read_csv(path) for path in result.written)
    # labels alone has no part where there are none; adapted and new, two seeds
    assert len(ul) == 2 * 2 * 2 and len(ssl) == 3 * 2 * 2
    assert set(ul["method"]) == {"zero-shot", "CAP"}
    assert ul["error"].isna().all() and ssl["error"].isna().all()
    assert sorted(set(ul["seed"])) == [1, 2]
    assert {"seconds", "memory"} <= set(ul.columns)


def test_labels_that_are_shown_are_two_a_class(fetch, tmp_path, monkeypatch):
    given = []
    fit = CAPClassifier.fit

    def note(self, space, labels):
        given.append(labels)
        return fit(self, space, labels)

    monkeypatch.setattr(CAPClassifier, "fit", note)
    run(tmp_path / "out", methods=["CAP"], paradigms=["ssl", "trzsl"])
    counts = [pd.Series(labels).value_counts().drop(-1).tolist() for labels in given]
    assert counts == [[2] * N_CLASSES, [N_TRAIN // N_CLASSES] * 2]  # 62% of four classes


def test_every_training_has_a_checkpoint_of_its_own(fetch, tmp_path):
    methods, paradigms, seeds = ("UPL", "CAP (paper)", "FPL"), ("ul", "ssl"), (1, 2)
    run(tmp_path / "out", methods=methods, paradigms=paradigms, seeds=seeds)
    states = list((tmp_path / "out" / "checkpoints").glob("*/training.pt"))
    assert len(states) == 3 * 2 * 2


def test_what_is_finished_is_not_run_again(fetch, tmp_path, monkeypatch):
    first = run(tmp_path / "out", methods=["CAP (paper)"])
    fitted = []
    fit = CAPClassifier.fit

    def note(self, *arguments):
        fitted.append(self.random_state)
        return fit(self, *arguments)

    monkeypatch.setattr(CAPClassifier, "fit", note)
    again = run(tmp_path / "out", methods=["CAP (paper)"], seeds=(1, 2))
    assert fitted == [2]
    same = again.table["seed"] == 1
    pd.testing.assert_frame_equal(first.table, again.table[same].reset_index(drop=True))


def test_methods_read_as_the_encoder_does(fetch, tmp_path, monkeypatch):
    seen = []
    fit = CAPClassifier.fit

    def note(self, *arguments):
        seen.append(self.encoder)
        return fit(self, *arguments)

    monkeypatch.setattr(CAPClassifier, "fit", note)
    encoder = CLIPEncoder("glyph", device="cpu", batch_size=7, n_jobs=1)
    run(tmp_path / "out", methods=["CAP (paper)"], encoder=encoder)
    assert [(e.device, e.batch_size, e.n_jobs) for e in seen] == [("cpu", 7, 1)]


def test_a_set_of_another_size_is_another_experiment(fetch, tmp_path):
    with pytest.warns(UserWarning, match="eurosat has 4 classes, 24 training and 16 test"):
        result = run(tmp_path / "out", settings=dataclasses.replace(TINY, n_train=25))
    assert "eurosat has 4 classes, 24 training and 16 test images, not 4, 25 and 16" in (
        result.to_markdown()
    )


def test_a_test_image_that_is_trained_on_is_an_error(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "capkit.datasets.fetch_eurosat", lambda data_home, split: fetch(None, split="test")
    )
    with pytest.raises(ValueError, match="expected test images of eurosat that are not trained"):
        run(tmp_path / "out", settings=dataclasses.replace(TINY, n_train=N_TEST))


def test_the_data_home_reaches_the_fetcher(fetch, tmp_path, monkeypatch):
    homes = []

    def note(data_home, *, split):
        homes.append(data_home)
        return fetch(None, split=split)

    monkeypatch.setattr("capkit.datasets.fetch_eurosat", note)
    run(tmp_path / "out", data_home=tmp_path / "home")
    assert homes == [tmp_path / "home"] * 2


# -- a killed run

SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import capkit.datasets
from paper_sets import digit_fetcher
from test_reproduction_protocol import AdapterTuning, run

from capkit.training.self_training import CAPSelfTraining

out, last = Path(sys.argv[1]), int(sys.argv[2])
capkit.datasets.fetch_eurosat = digit_fetcher(Path(sys.argv[3]))
end_epoch, epochs = CAPSelfTraining.end_epoch, []

def end(self, *arguments):
    epochs.append(0)
    if len(epochs) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    end_epoch(self, *arguments)

CAPSelfTraining.end_epoch = end
result = run(
    out, methods=["CAP (paper)"], seeds=(1, 2), tuning=AdapterTuning(epochs=3, steps_per_epoch=2)
)
print("epochs", len(epochs))
print("scores", result.table[["score", "calibration_error"]].to_numpy().tolist())
"""


def run_and_kill(out, last, images):
    script = SCRIPT.format(tests=str(ROOT / "tests"))
    return subprocess.run(
        [sys.executable, "-c", script, str(out), str(last), str(images)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_middle_of_a_training(tmp_path):
    images = tmp_path / "set"
    killed = run_and_kill(tmp_path / "out", 5, images)  # the second seed's second epoch of three
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "scores" not in killed.stdout
    again = run_and_kill(tmp_path / "out", 0, images)
    assert "epochs 2\n" in again.stdout, again.stderr  # the second and the third
    whole = run_and_kill(tmp_path / "other", 0, images)
    assert "epochs 6\n" in whole.stdout, whole.stderr
    scores = [json.loads(re.search("scores (.*)", p.stdout)[1]) for p in (again, whole)]
    np.testing.assert_allclose(*scores, atol=1e-6)


@pytest.mark.slow
def test_prompts_are_trained_on_the_images_of_the_set(fetch, tmp_path):
    tuning = PromptTuning(epochs=2, steps_per_epoch=3, batch_size=8)
    methods = ("zero-shot", "UPL", "CAP (paper)", "CAP")
    result = run(tmp_path / "out", methods=methods, paradigms=("ul", "trzsl"), tuning=tuning)
    assert (result.table["error"] == "").all()
    assert result.table["score"].between(0, 1).all()
    states = list((tmp_path / "out" / "checkpoints").glob("*/training.pt"))
    assert len(states) >= 4  # the guard may leave CAP untrained
