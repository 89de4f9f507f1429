"""Tests of saving and loading a fitted CAPClassifier."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError

from capkit import CAPClassifier, ConceptAligner, MarginCalibrator, MismatchDetector
from capkit.datasets import make_concept_space
from capkit.exceptions import BackboneMismatchError

QUICK = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 8, "random_state": 0}
NAMES = ["emu", "cat", "dog"]


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(n_images=100, n_classes=5, n_features=20, random_state=0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def fitted(problem):
    return CAPClassifier(tuning="adapter", **QUICK).fit(problem.space)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "classifier.safetensors"


@pytest.mark.parametrize("tuning", ["prompt", "adapter"])
@pytest.mark.parametrize("inference", [None, "main", "ensemble"])
def test_predictions_are_identical(random_backbone, images, path, tuning, inference):
    y = np.array([*NAMES, *[None] * 13], dtype=object)
    classifier = CAPClassifier(
        "ssl",
        backbone=random_backbone,
        class_names=NAMES,
        tuning=tuning,
        inference=inference,
        prompt_depth=2,
        temperature=2.5,
        **QUICK,
    ).fit(images, y)
    classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert np.array_equal(loaded.predict_proba(images), classifier.predict_proba(images))
    assert np.array_equal(loaded.predict(images), classifier.predict(images))
    assert np.array_equal(loaded.transform(images), classifier.transform(images))
    assert loaded.get_params() == classifier.get_params()


def test_fitted_attributes_come_back(fitted, path):
    fitted.save(path)
    loaded = CAPClassifier.load(path)
    stages = {"detector_", "aligner_", "calibrator_"}
    names = {name for name in vars(fitted) if name.endswith("_")} - stages
    assert {name for name in vars(loaded) if name.endswith("_")} - stages == names
    for name in names:
        found, expected = getattr(loaded, name), getattr(fitted, name)
        assert type(found) is type(expected), name
        assert np.array_equal(found, expected), name
    assert all(getattr(loaded, name) is None for name in stages)


def test_given_stages_are_parameters_again(problem, path):
    classifier = CAPClassifier(
        tuning="adapter",
        detector=MismatchDetector(t=2),
        aligner=ConceptAligner(detector=MismatchDetector(t=3), top_k=4),
        calibrator=MarginCalibrator(m=3.0),
        **QUICK,
    ).fit(problem.space)
    classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert str(loaded.get_params()) == str(classifier.get_params())


def test_what_cannot_be_saved_is_named(problem, path):
    classifier = CAPClassifier(tuning="adapter", augment=torch.nn.Identity(), **QUICK)
    classifier.fit(problem.space).set_params(describer=lambda name, n: [name] * n)
    with pytest.warns(UserWarning, match="their defaults in what is loaded: augment, describer"):
        classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert loaded.describer is loaded.augment is None
    expected = classifier.predict_proba(problem.space)
    assert np.array_equal(loaded.predict_proba(problem.space), expected)


def test_file_holds_no_backbone_and_no_pickle(random_backbone, images, path):
    classifier = CAPClassifier(
        backbone=random_backbone, class_names=NAMES, prompt_depth=2, **QUICK
    ).fit(images)
    classifier.save(path)
    assert path.stat().st_size < 300_000  # the backbone has 6 MB
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["capkit"])
    assert header["backbone_id_"] == classifier.backbone_id_
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(path.read_bytes())


def test_a_loaded_classifier_refuses_another_backbone(random_backbone, images, path):
    classifier = CAPClassifier(
        backbone=random_backbone, class_names=NAMES, tuning="adapter", **QUICK
    ).fit(images)
    classifier.save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(metadata["capkit"]) | {"backbone_id_": "0" * 64}
    save_file(arrays, path, metadata={"capkit": json.dumps(header)})
    with pytest.raises(BackboneMismatchError, match="fingerprint 000000000000"):
        CAPClassifier.load(path).predict(images)


def test_a_file_cannot_choose_what_is_built(fitted, path):
    fitted.save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(metadata["capkit"])
    header["parameters"]["detector"] = {"estimator": "os.system", "parameters": {"command": ""}}
    save_file(arrays, path, metadata={"capkit": json.dumps(header)})
    with pytest.raises(ValueError, match=r"os\.system"):
        CAPClassifier.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"not safetensors at all", b"\x08" + b"\0" * 7 + b"{}      "]
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"classifier\.safetensors is not a classifier"):
        CAPClassifier.load(path)


def test_a_newer_format_is_refused(fitted, path):
    fitted.save(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["capkit"]) | {"format": 99}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays, path, metadata={"capkit": json.dumps(header)})
    with pytest.raises(ValueError, match="format 99, expected at most 1"):
        CAPClassifier.load(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        CAPClassifier.load(path)


def test_only_fitted_classifiers_are_saved(path):
    with pytest.raises(NotFittedError):
        CAPClassifier().save(path)
    assert not path.exists()


def test_a_failed_save_keeps_the_older_file(fitted, path, monkeypatch):
    path.write_bytes(b"older")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(path)
    assert path.read_bytes() == b"older"


def test_loads_onto_the_device_that_is_named(fitted, path):
    fitted.save(path)
    assert CAPClassifier.load(path, device="cpu").device == "cpu"
