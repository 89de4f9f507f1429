"""Trainings that are killed, interrupted, silent, or spread over processes."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torchvision.transforms import RandomResizedCrop

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    GaussianTransduction,
    MainSampleRenewal,
)
from capkit.baselines import FPLClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import (
    CheckpointError,
    CheckpointMismatchError,
    TrainingDivergedError,
    TrainingInterrupted,
)
from capkit.training.net import CAPNet
from capkit.tuning import AdapterTuning, PromptTuning

QUICK = {"epochs": 4, "steps_per_epoch": 3, "batch_size": 8}
NAMES = ["cat", "dog", "emu"]
# Labels from the Gaussians, which stay a part of the model; the guard would throw away what a few
# steps on a hundred images have learned.
GAUSSIAN = GaussianTransduction(guard=False)

# Said of trainings that are cut short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")


@pytest.fixture(scope="module")
def space():
    return make_concept_space(n_images=100, n_classes=5, n_features=20, random_state=0).space


def quick(**parameters):
    """Classifier that trains adapters for four epochs."""
    settings = {"pseudo_labels": GAUSSIAN, "random_state": 0, **parameters}
    return CAPClassifier(tuning=AdapterTuning(**QUICK), **settings)


@pytest.fixture
def adapter(tmp_path):
    return quick(checkpoint_dir=tmp_path / "run")


def assert_not_fitted(classifier, X):
    with pytest.raises(NotFittedError):
        classifier.predict(X)
    assert not hasattr(classifier, "history_")


def assert_same_fit(first, second):
    assert first.history_ == second.history_
    for name in ("margin_matrix_", "pseudo_labels_", "main_labels_"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert first._model.weights.keys() == second._model.weights.keys() != set()
    for name, value in first._model.weights.items():
        assert np.array_equal(second._model.weights[name], value), name


def add_noise(feature):
    return feature + 0.1 * torch.randn_like(feature)


def checkpoints(folder):
    return sorted(folder.glob("*/training.pt"))


DESCRIPTION = {"word": "one"}


def describe(name, n):
    return [f"{DESCRIPTION['word']} {name} number {index}" for index in range(n)]


def full_disk(*args):
    raise OSError(28, "No space left on device")


def stop_after(monkeypatch, n_steps, error):
    """Raise in place of a step; returns how often a step was begun."""
    steps = []
    train_step = CAPNet.train_step

    def step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) > n_steps:
            raise error
        return train_step(self, *args, **kwargs)

    monkeypatch.setattr(CAPNet, "train_step", step)
    return steps


class TestResuming:
    @pytest.mark.parametrize(
        ("optimizer", "pseudo_labels"),
        [("adamw", GAUSSIAN), ("sgd", GAUSSIAN), ("adamw", "zero_shot")],
        ids=["adamw", "sgd", "zero-shot"],
    )
    @pytest.mark.parametrize("n_steps", [0, 3, 7, 11])
    def test_ends_where_the_uninterrupted_training_ends(
        self, adapter, space, monkeypatch, n_steps, optimizer, pseudo_labels
    ):
        adapter.set_params(tuning__optimizer=optimizer, renewal=MainSampleRenewal(every=2))
        adapter.set_params(pseudo_labels=pseudo_labels)
        expected = clone(adapter).set_params(checkpoint_dir=None).fit(space)
        with monkeypatch.context() as patch:
            stop_after(patch, n_steps, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                adapter.fit(space)
        with monkeypatch.context() as patch:
            steps = stop_after(patch, 100, None)
            resumed = clone(adapter).fit(space)
        assert len(steps) == 12 - n_steps // 3 * 3
        assert_same_fit(resumed, expected)

    def test_prompts_resume_too(self, random_backbone, monkeypatch, tmp_path):
        images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
        classifier = CAPClassifier(
            backbone=random_backbone,
            class_names=NAMES,
            tau=0.3,
            tuning=PromptTuning(prompt_depth=2, **QUICK),
            pseudo_labels="zero_shot",
            random_state=0,
        )
        expected = clone(classifier).fit(images)
        classifier.set_params(checkpoint_dir=tmp_path)
        with monkeypatch.context() as patch:
            stop_after(patch, 7, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                classifier.fit(images)
        assert_same_fit(classifier.fit(images), expected)

    def test_a_finished_training_is_not_run_again(self, adapter, space, monkeypatch):
        expected = clone(adapter).fit(space)
        stop_after(monkeypatch, 0, AssertionError("trained again"))
        assert_same_fit(adapter.fit(space), expected)

    def test_a_function_as_augment_resumes_too(self, adapter, space, monkeypatch):
        adapter.set_params(tuning__augment=add_noise)
        expected = clone(adapter).set_params(checkpoint_dir=None).fit(space)
        with monkeypatch.context() as patch:
            stop_after(patch, 7, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                adapter.fit(space)
        with monkeypatch.context() as patch:
            steps = stop_after(patch, 100, None)
            assert_same_fit(clone(adapter).fit(space), expected)
        assert len(steps) == 12 - 6

    def test_a_transform_of_torchvision_as_augment_resumes_too(
        self, random_backbone, monkeypatch, tmp_path
    ):
        images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
        classifier = CAPClassifier(
            backbone=random_backbone,
            class_names=NAMES,
            tau=0.3,
            tuning=PromptTuning(augment=RandomResizedCrop(32), **QUICK),
            pseudo_labels="zero_shot",
            random_state=0,
        )
        expected = clone(classifier).fit(images)
        classifier.set_params(checkpoint_dir=tmp_path)
        with monkeypatch.context() as patch:
            stop_after(patch, 7, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                classifier.fit(images)
        with monkeypatch.context() as patch:
            steps = stop_after(patch, 100, None)
            assert_same_fit(clone(classifier).fit(images), expected)
        assert len(steps) == 12 - 6

    def test_scalars_of_numpy_are_the_same_parameters(self, adapter, space, monkeypatch):
        expected = clone(adapter).set_params(checkpoint_dir=None, tau=0.75).fit(space)
        adapter.set_params(
            tau=np.float64(0.75), tuning__epochs=np.int64(4), random_state=np.int64(0)
        )
        with monkeypatch.context() as patch:
            stop_after(patch, 7, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                adapter.fit(space)
        adapter.set_params(tau=0.75, tuning__epochs=4, random_state=0)
        assert_same_fit(adapter.fit(space), expected)

    def test_without_a_seed_the_checkpoint_s_is_taken(self, adapter, space, monkeypatch):
        adapter.set_params(random_state=None)
        with monkeypatch.context() as patch:
            stop_after(patch, 7, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                adapter.fit(space)
        resumed = clone(adapter).fit(space)
        expected = clone(adapter).set_params(random_state=resumed.seed_, checkpoint_dir=None)
        assert_same_fit(resumed, expected.fit(space))

    def test_the_global_thread_count_and_device_are_not_part_of_it(self, adapter, space):
        adapter.fit(space)
        assert clone(adapter).set_params(device="cpu", verbose=0).fit(space).history_

    @pytest.mark.parametrize("n_features", [20, 160])  # fewer and more than images
    def test_features_that_differ_in_their_last_bits_are_the_same_training(
        self, adapter, monkeypatch, n_features
    ):
        """As they do with another number of threads."""
        space = make_concept_space(
            n_images=100, n_classes=5, n_features=n_features, random_state=0
        ).space
        with monkeypatch.context() as patch:
            stop_after(patch, 7, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                adapter.fit(space)
        noise = np.random.default_rng(0).normal(scale=1e-6, size=(105, n_features))
        again = dataclasses.replace(
            space,
            image_features=space.image_features + noise[:100],
            text_features=space.text_features + noise[100:],
        )
        steps = stop_after(monkeypatch, 100, None)
        clone(adapter).fit(again)
        assert len(steps) == 12 - 6

    def test_with_a_random_state_object_the_seed_that_it_gave_goes_on(
        self, adapter, space, monkeypatch
    ):
        state = np.random.RandomState(7)
        adapter.set_params(random_state=state)
        with monkeypatch.context() as patch:
            stop_after(patch, 7, KeyboardInterrupt())
            with pytest.raises(TrainingInterrupted) as caught:
                adapter.fit(space)
        seed = np.random.RandomState(7).randint(2**31 - 1)
        assert f"Fit again with random_state={seed} to go on" in str(caught.value)
        steps = stop_after(monkeypatch, 100, None)
        assert clone(adapter).set_params(random_state=seed).fit(space).seed_ == seed
        assert len(steps) == 12 - 6


class TestOthersInTheSameFolder:
    """Every training has a folder of its own, whatever else is in ``checkpoint_dir``."""

    @pytest.mark.parametrize(
        "change",
        [
            {"tau": 0.5},
            {"m": 3.0},
            {"tuning__epochs": 5},
            {"tuning__augment": add_noise},
            {"random_state": 1},
            {"top_k": 4},
            {"renewal": MainSampleRenewal(every=2)},
            {"pseudo_labels": "zero_shot"},
            {"pseudo_labels__kappa": 30.0},
            {"pseudo_labels__class_prior": [1, 1, 1, 1, 2]},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_other_parameters(self, adapter, space, change):
        adapter.fit(space)
        self.assert_trains_by_itself(clone(adapter).set_params(**change), space)

    def test_another_tuning(self, random_backbone, tmp_path):
        images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
        classifier = CAPClassifier(
            backbone=random_backbone,
            class_names=NAMES,
            tuning=AdapterTuning(**QUICK),
            checkpoint_dir=tmp_path,
            pseudo_labels="zero_shot",
            random_state=0,
        ).fit(images)
        self.assert_trains_by_itself(
            clone(classifier).set_params(tuning=PromptTuning(**QUICK)), images
        )

    def test_other_images(self, adapter, space):
        adapter.fit(space)
        self.assert_trains_by_itself(clone(adapter), space[:90])

    def test_one_other_image(self, adapter, space):
        adapter.fit(space)
        features = space.image_features.copy()
        features[3] = np.roll(features[3], 1)
        other = dataclasses.replace(space, image_features=features)
        self.assert_trains_by_itself(clone(adapter), other)

    def test_other_classes(self, adapter, space):
        adapter.fit(space)
        names = [name.upper() for name in space.class_names]
        other = dataclasses.replace(space, class_names=names)
        self.assert_trains_by_itself(clone(adapter), other)

    def test_other_labels(self, adapter, space):
        adapter.set_params(paradigm="ssl").fit(space, np.r_[0, 1, 2, np.full(97, -1)])
        self.assert_trains_by_itself(clone(adapter), space, np.r_[0, 1, 1, np.full(97, -1)])

    def test_another_method(self, adapter, space):
        adapter.fit(space)
        other = FPLClassifier(
            tuning=AdapterTuning(**QUICK), checkpoint_dir=adapter.checkpoint_dir, random_state=0
        )
        self.assert_trains_by_itself(other, space)

    @staticmethod
    def assert_trains_by_itself(other, X, y=None):
        (first,) = checkpoints(other.checkpoint_dir)
        before = first.read_bytes()
        other.fit(X, y)
        assert len(checkpoints(other.checkpoint_dir)) == 2
        assert first.read_bytes() == before
        alone = clone(other).set_params(checkpoint_dir=None).fit(X, y)
        assert other.history_ == alone.history_

    def test_what_another_describer_said_is_refused(self, random_backbone, tmp_path, monkeypatch):
        planted = make_concept_space(n_images=400, n_classes=6, n_features=32, random_state=0)
        space = dataclasses.replace(planted.space, backbone=random_backbone)
        aligner = ConceptAligner(describer=describe, accept="always")
        classifier = quick(aligner=aligner, t=2, checkpoint_dir=tmp_path).fit(space)
        monkeypatch.setitem(DESCRIPTION, "word", "another")
        message = r"Different: .*class features \(\d of 6 are others\); proportions"
        with pytest.raises(CheckpointMismatchError, match=message):
            clone(classifier).fit(space)

    @pytest.mark.parametrize("n_jobs", [None, 2])
    def test_candidates_of_a_search_do_not_meet(self, adapter, space, n_jobs):
        y = [space.class_names[label] for label in space.predict()]
        grid = {"tau": [0.5, 0.85], "tuning__epochs": [1, 2]}
        scores = []
        for checkpoint_dir in (None, adapter.checkpoint_dir):
            classifier = clone(adapter).set_params(checkpoint_dir=checkpoint_dir)
            search = GridSearchCV(classifier, grid, cv=2, refit=False, n_jobs=n_jobs)
            with parallel_config("threading"):
                scores.append(search.fit(space, y).cv_results_["mean_test_score"])
        assert np.isfinite(scores).all()
        assert scores[0].tolist() == scores[1].tolist()
        assert len(checkpoints(adapter.checkpoint_dir)) == 4 * 2


def test_a_pickled_classifier_knows_nothing_of_its_folder(adapter, space):
    fitted = adapter.fit(space).set_params(checkpoint_dir=None)
    assert b"/run" not in pickle.dumps(fitted)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(space), fitted.predict(space))


class TestFolder:
    """A folder that cannot be written to is found before any work."""

    def test_below_a_file(self, random_backbone, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        self.assert_is_found(random_backbone, monkeypatch, tmp_path / "file" / "run")

    def test_that_is_a_file(self, random_backbone, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        self.assert_is_found(random_backbone, monkeypatch, tmp_path / "file")

    def test_on_a_full_disk(self, random_backbone, monkeypatch, tmp_path):
        monkeypatch.setattr(os, "fsync", full_disk)
        self.assert_is_found(random_backbone, monkeypatch, tmp_path)
        assert list(tmp_path.iterdir()) == []

    @staticmethod
    def assert_is_found(backbone, monkeypatch, folder):
        monkeypatch.setattr(CLIPEncoder, "fit_transform", lambda *args: pytest.fail("encoded"))
        classifier = quick(backbone=backbone, class_names=NAMES, checkpoint_dir=folder)
        with pytest.raises(CheckpointError, match=r"could not be written to: .*make room, or"):
            classifier.fit(np.zeros((4, 8, 8, 3), dtype=np.uint8))

    def test_whose_disk_has_no_room_for_the_state(self, adapter, space, monkeypatch):
        monkeypatch.setattr("capkit._files.os.replace", full_disk)
        steps = stop_after(monkeypatch, 100, None)
        with pytest.raises(CheckpointError, match=r"training\.pt could not be written: .*No spa"):
            adapter.fit(space)
        assert not steps


class TestKilled:
    @pytest.mark.slow
    def test_ends_the_same_after_sigkill(self, space, tmp_path):
        parameters = QUICK | {"epochs": 300}
        script = tmp_path / "train.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import torch
                from capkit import CAPClassifier, GaussianTransduction
                from capkit.datasets import make_concept_space
                from capkit.tuning import AdapterTuning

                torch.set_num_threads({torch.get_num_threads()})
                space = make_concept_space(
                    n_images=100, n_classes=5, n_features=20, random_state=0
                ).space
                CAPClassifier(
                    tuning=AdapterTuning(**{parameters}),
                    pseudo_labels=GaussianTransduction(guard=False),
                    checkpoint_dir={str(tmp_path / "run")!r},
                    random_state=0,
                ).fit(space)
                """
            )
        )
        process = subprocess.Popen([sys.executable, script])
        try:
            written = set()
            while len(written) < 3 and process.poll() is None:
                written |= {path.stat().st_mtime_ns for path in checkpoints(tmp_path / "run")}
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL  # it was still training
        expected = quick().set_params(tuning=AdapterTuning(**parameters))
        resumed = clone(expected).set_params(checkpoint_dir=tmp_path / "run").fit(space)
        assert_same_fit(resumed, expected.fit(space))


class TestInterrupt:
    def test_is_passed_on_and_leaves_no_fitted_classifier(self, space, monkeypatch):
        classifier = quick().fit(space)
        stop_after(monkeypatch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt, match="interrupted: this CAPClassifier is not"):
            classifier.fit(space)
        assert_not_fitted(classifier, space)

    def test_says_how_to_go_on(self, adapter, space, monkeypatch):
        stop_after(monkeypatch, 5, KeyboardInterrupt())
        with pytest.raises(TrainingInterrupted, match="Fit again to go on from the last epoch"):
            adapter.fit(space)

    def test_is_no_exception_that_a_search_would_swallow(self):
        assert not issubclass(TrainingInterrupted, Exception)

    def test_while_encoding(self, random_backbone, monkeypatch):
        def interrupt(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(CLIPEncoder, "transform", interrupt)
        classifier = CAPClassifier(backbone=random_backbone, class_names=NAMES)
        with pytest.raises(TrainingInterrupted):
            classifier.fit(np.zeros((4, 8, 8, 3), dtype=np.uint8))


def diverging():
    return quick().set_params(
        tuning__optimizer="sgd", tuning__learning_rate=1e30, tuning__weight_decay=1.0
    )


def test_a_diverging_training_says_so(space):
    classifier = diverging()
    with pytest.raises(TrainingDivergedError, match="Lower learning_rate"):
        classifier.fit(space)
    assert_not_fitted(classifier, space)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38], ids=["features", "weights"])
def test_a_last_step_that_diverges_is_found(space, tmp_path, learning_rate):
    classifier = diverging().set_params(
        tuning__epochs=1,
        tuning__steps_per_epoch=1,
        tuning__warmup_epochs=0,
        tuning__learning_rate=learning_rate,
        checkpoint_dir=tmp_path,
    )
    for _ in "12":  # nor does what it left pass for a training that has ended
        with pytest.raises(TrainingDivergedError, match=r"finite.* after step 1 of 1 .*Lower lea"):
            classifier.fit(space)
    assert_not_fitted(classifier, space)


class TestOutput:
    def test_silent_by_default(self, space, capfd):
        quick().fit(space)
        captured = capfd.readouterr()
        assert captured.out == captured.err == ""

    def test_verbose_shows_a_bar_with_the_time_left(self, space, capfd):
        quick(verbose=1).fit(space)
        captured = capfd.readouterr()
        assert captured.out == ""
        assert "training: 100%" in captured.err
        assert "12/12 [" in captured.err
        assert "loss=" in captured.err

    def test_the_bar_is_closed_after_an_error(self, space, capfd, monkeypatch):
        stop_after(monkeypatch, 5, RuntimeError("stopped"))
        with pytest.raises(RuntimeError, match="stopped"):
            quick(verbose=1).fit(space)
        assert capfd.readouterr().err.endswith("\n")


@pytest.mark.slow
class TestTwoProcesses:
    """Two gloo processes on the CPU, each with half of every batch."""

    @pytest.mark.parametrize(
        "pseudo_labels", [GAUSSIAN, "zero_shot"], ids=["gaussian", "zero-shot"]
    )
    def test_have_the_losses_of_one_with_the_joined_batch(self, space, pseudo_labels):
        y = np.where(np.arange(100) < 20, np.arange(100) % 5, -1)
        one = quick(paradigm="ssl", tau=0.9, pseudo_labels=pseudo_labels)
        two = clone(one).set_params(n_devices=2).fit(space, y)
        one.fit(space, y)
        kept = [row["kept"] for row in one.history_]
        assert 0 < min(kept) < 1  # so that the two halves of a batch keep unequal numbers
        for row, other in zip(one.history_, two.history_, strict=True):
            for name, value in row.items():
                assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        for name, value in one._model.weights.items():
            np.testing.assert_allclose(two._model.weights[name], value, atol=1e-4)

    def test_are_silent(self, space, capfd):
        quick(n_devices=2).fit(space)
        captured = capfd.readouterr()
        assert captured.out == captured.err == ""

    def test_end_with_their_parent(self, tmp_path):
        script = tmp_path / "train.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import signal
                from capkit import CAPClassifier, GaussianTransduction
                from capkit.datasets import make_concept_space
                from capkit.tuning import AdapterTuning

                def ignore_signals(feature):
                    # Linux interrupts them itself; other systems do not
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    return feature

                if __name__ == "__main__":
                    space = make_concept_space(
                        n_images=100, n_classes=5, n_features=20, random_state=0
                    ).space
                    CAPClassifier(
                        tuning=AdapterTuning(
                            **{QUICK | {"epochs": 3000}}, augment=ignore_signals
                        ),
                        pseudo_labels=GaussianTransduction(guard=False),
                        checkpoint_dir={str(tmp_path / "run")!r},
                        n_devices=2,
                        random_state=0,
                    ).fit(space)
                """
            )
        )
        process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
        try:
            written = set()
            while len(written) < 4 and process.poll() is None:
                written |= {path.stat().st_mtime_ns for path in checkpoints(tmp_path / "run")}
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        (checkpoint,) = checkpoints(tmp_path / "run")
        time.sleep(1)
        last = checkpoint.stat().st_mtime_ns
        time.sleep(2)
        assert checkpoint.stat().st_mtime_ns == last

    def test_errors_come_through(self, space):
        with pytest.raises(TrainingDivergedError, match="Lower learning_rate"):
            diverging().set_params(n_devices=2).fit(space)


def test_nothing_reads_the_environment(space, monkeypatch):
    expected = quick().fit(space)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.setitem(os.environ, name, "1")
    assert_same_fit(clone(expected).fit(space), expected)
