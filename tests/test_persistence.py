"""Tests of saving and loading a fitted CAPClassifier."""

import dataclasses
import hashlib
import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    GaussianTransduction,
    MainSampleRenewal,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.datasets import make_concept_space
from capkit.exceptions import (
    AdaptationWarning,
    BackboneMismatchError,
    BackboneNotFoundError,
)
from capkit.tuning import AdapterTuning, PromptTuning

QUICK = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 8}
NAMES = ["emu", "cat", "dog"]

# Said of trainings that are cut short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(n_images=100, n_classes=5, n_features=20, random_state=0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)


def quick(**parameters):
    """Classifier that trains adapters for two epochs, and keeps what they learned."""
    transduction = GaussianTransduction(guard=False)
    settings = {"pseudo_labels": transduction, "random_state": 0, **parameters}
    return CAPClassifier(tuning=AdapterTuning(**QUICK), **settings)


def describe(name, n):
    return [f"{name} number {index}" for index in range(n)]


@pytest.fixture
def fitted(problem):
    return quick().fit(problem.space)


def read(path):
    """Header and arrays of a file."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["capkit"])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path, header, arrays):
    """A file that says something else, and whose digest is right."""
    header = {name: value for name, value in header.items() if name != "blake2b"}
    digest = hashlib.blake2b(json.dumps(header).encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    header["blake2b"] = digest.hexdigest()
    save_file(arrays, path, metadata={"capkit": json.dumps(header)})


def parameters_of(estimator):
    """All parameters, with those of estimators in the estimators' place."""
    return {
        name: value
        for name, value in estimator.get_params(deep=True).items()
        if not isinstance(value, BaseEstimator)
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "classifier.safetensors"


@pytest.mark.parametrize(
    "tuning",
    [PromptTuning(prompt_depth=2, **QUICK), AdapterTuning(**QUICK)],
    ids=lambda tuning: tuning.name,
)
@pytest.mark.parametrize("inference", [None, "main", "ensemble"])
def test_predictions_are_identical(random_backbone, images, path, tuning, inference):
    y = np.array([*NAMES, *[None] * 13], dtype=object)
    classifier = CAPClassifier(
        "ssl",
        backbone=random_backbone,
        class_names=NAMES,
        tuning=tuning,
        inference=inference,
        temperature=2.5,
        pseudo_labels="zero_shot",
        random_state=0,
    ).fit(images, y)
    classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert np.array_equal(loaded.predict_proba(images), classifier.predict_proba(images))
    assert np.array_equal(loaded.predict(images), classifier.predict(images))
    assert np.array_equal(loaded.transform(images), classifier.transform(images))
    assert parameters_of(loaded) == parameters_of(classifier)
    assert type(loaded.tuning) is type(loaded.tuning_) is type(tuning)


@pytest.mark.parametrize("tuning", ["auto", "adapter"])
def test_what_a_name_stood_for_comes_back(problem, path, tuning):
    CAPClassifier(tuning=tuning, random_state=0).fit(problem.space).save(path)
    loaded = CAPClassifier.load(path)
    assert loaded.tuning == tuning
    assert type(loaded.tuning_) is AdapterTuning
    assert loaded.tuning_.get_params() == AdapterTuning().get_params()


def test_seed_comes_back_and_repeats_the_fit(problem, path):
    classifier = quick().set_params(random_state=None).fit(problem.space)
    classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert loaded.random_state is None
    assert loaded.seed_ == classifier.seed_
    loaded.set_params(random_state=loaded.seed_).fit(problem.space)
    assert loaded.history_ == classifier.history_


def test_scalars_of_numpy_are_saved(problem, path):
    classifier = quick(tau=np.float64(0.75), m=np.float32(3.0), t=np.int64(2))
    classifier.set_params(tuning__epochs=np.int64(3), random_state=np.int64(0), top_k=np.int32(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", AdaptationWarning)
        classifier.fit(problem.space).save(path)
    loaded = CAPClassifier.load(path)
    assert parameters_of(loaded) == parameters_of(classifier)
    assert (type(loaded.tau), type(loaded.tuning.epochs)) == (float, int)
    expected = classifier.predict_proba(problem.space)
    assert np.array_equal(loaded.predict_proba(problem.space), expected)


def test_paths_and_arrays_are_saved_as_what_they_say(random_backbone, images, path):
    names = np.array(NAMES)
    classifier = quick(backbone=Path(random_backbone), class_names=names).fit(images)
    classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert (loaded.backbone, loaded.class_names) == (random_backbone, NAMES)
    assert np.array_equal(loaded.predict_proba(images), classifier.predict_proba(images))


def test_mismatched_classes_and_their_names_come_back(path):
    planted = make_concept_space(n_images=400, n_classes=6, n_mismatched=2, random_state=0)
    quick(t=2).fit(planted.space).save(path)
    loaded = CAPClassifier.load(path)
    assert loaded.mismatched_.tolist() == planted.mismatched.tolist()
    assert loaded.mismatched_names_ == [f"class {index}" for index in planted.mismatched]


def test_fitted_attributes_come_back(fitted, path):
    fitted.save(path)
    loaded = CAPClassifier.load(path)
    stages = {"detector_", "aligner_", "transduction_", "calibrator_"}
    names = {name for name in vars(fitted) if name.endswith("_")} - stages
    assert {name for name in vars(loaded) if name.endswith("_")} - stages == names
    for name in names:
        found, expected = getattr(loaded, name), getattr(fitted, name)
        assert type(found) is type(expected), name
        if name == "tuning_":
            found, expected = found.get_params(), expected.get_params()
        assert np.array_equal(found, expected), name
    assert {"tuning_", "seed_", "mismatched_"} <= names
    assert all(getattr(loaded, name) is None for name in stages)


def test_given_stages_are_parameters_again(problem, path):
    stages = {
        "detector": MismatchDetector(t=2),
        "aligner": ConceptAligner(n_descriptions=4),
        "calibrator": MarginCalibrator(m=3.0),
        "encoder": CLIPEncoder(template=["a {}", "the {}"]),
        "renewal": MainSampleRenewal(every=None),
    }
    classifier = quick(**stages).fit(problem.space)
    classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert parameters_of(loaded) == parameters_of(classifier)
    for name, stage in stages.items():
        assert type(getattr(loaded, name)) is type(stage)


def test_what_cannot_be_saved_is_named(problem, path):
    classifier = quick().set_params(tuning__augment=torch.nn.Identity())
    classifier.fit(problem.space).set_params(describer=describe)
    message = "their defaults in what is loaded: describer, tuning__augment. Predictions do not"
    with pytest.warns(UserWarning, match=message) as caught:
        classifier.save(path)
    assert [warning.filename for warning in caught] == [__file__]
    loaded = CAPClassifier.load(path)
    assert loaded.describer is None
    assert loaded.tuning.augment == loaded.tuning_.augment == AdapterTuning().augment
    assert loaded.tuning.epochs == QUICK["epochs"]
    expected = classifier.predict_proba(problem.space)
    assert np.array_equal(loaded.predict_proba(problem.space), expected)


def test_a_function_inside_a_stage_is_named(problem, path):
    classifier = quick(aligner=ConceptAligner(n_descriptions=4)).fit(problem.space)
    classifier.set_params(aligner__describer=describe)
    with pytest.warns(UserWarning, match="what is loaded: aligner__describer. Predictions do not"):
        classifier.save(path)
    loaded = CAPClassifier.load(path)
    assert (loaded.aligner.describer, loaded.aligner.n_descriptions) == (None, 4)


def test_descriptions_come_back(random_backbone, path):
    planted = make_concept_space(n_images=400, n_classes=6, n_features=32, random_state=0)
    space = dataclasses.replace(planted.space, backbone=random_backbone)
    classifier = quick(aligner=ConceptAligner(describer=describe, accept="always"), t=2).fit(space)
    names = [f"class {index}" for index in planted.mismatched]
    assert list(classifier.descriptions_) == names
    with pytest.warns(UserWarning, match="what is loaded: aligner__describer"):
        classifier.save(path)
    assert CAPClassifier.load(path).descriptions_ == classifier.descriptions_


def test_file_holds_no_backbone_and_no_pickle(random_backbone, images, path):
    classifier = CAPClassifier(
        backbone=random_backbone,
        class_names=NAMES,
        tuning=PromptTuning(prompt_depth=2, **QUICK),
        pseudo_labels="zero_shot",
        random_state=0,
    ).fit(images)
    classifier.save(path)
    assert path.stat().st_size < 300_000  # the backbone has 6 MB
    header, _ = read(path)
    assert header["values"]["backbone_id_"] == classifier.backbone_id_
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(path.read_bytes())


def test_a_loaded_classifier_refuses_another_backbone(random_backbone, images, path):
    quick(backbone=random_backbone, class_names=NAMES).fit(images).save(path)
    header, arrays = read(path)
    header["values"]["backbone_id_"] = "0" * 64
    write(path, header, arrays)
    with pytest.raises(BackboneMismatchError, match="fingerprint 000000000000"):
        CAPClassifier.load(path).predict(images)


@pytest.mark.parametrize(
    ("part", "name"), [("parameters", "detector"), ("parameters", "tuning"), ("values", "tuning_")]
)
def test_a_file_cannot_choose_what_is_built(fitted, path, part, name):
    fitted.save(path)
    header, arrays = read(path)
    header[part][name] = {"estimator": "os.system", "parameters": {"command": ""}}
    write(path, header, arrays)
    with pytest.raises(ValueError, match=r"os\.system"):
        CAPClassifier.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"not safetensors at all", b"\x08" + b"\0" * 7 + b"{}      "]
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"classifier\.safetensors is not a classifier"):
        CAPClassifier.load(path)


@pytest.mark.parametrize("found", [99, 2])
def test_another_format_is_refused(fitted, path, found):
    fitted.save(path)
    header, arrays = read(path)
    write(path, header | {"format": found}, arrays)
    with pytest.raises(ValueError, match=f"format {found}, expected 3"):
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


@pytest.mark.parametrize("place", np.linspace(0.3, 0.999, 12))
def test_a_flipped_bit_is_an_error(fitted, path, place):
    fitted.save(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        CAPClassifier.load(path)


# -- files whose digest is right, and which say what no classifier writes


def change(fitted, path, **parts):
    """Save, and say something else in the file."""
    fitted.save(path)
    header, arrays = read(path)
    for part, values in parts.items():
        header[part] |= values
    write(path, header, arrays)
    return header, arrays


def test_values_out_of_their_range_are_refused(fitted, path):
    change(fitted, path, values={"temperature_": 0})
    message = r"safetensors is not what capkit saves: expected temperature_ as .* above 0, .* 0\."
    with pytest.raises(ValueError, match=message):
        CAPClassifier.load(path)


@pytest.mark.parametrize("changed", [np.int32, np.float16])
def test_weights_of_another_type_are_refused(fitted, path, changed):
    fitted.save(path)
    header, arrays = read(path)
    name = "weights.main_adapter.fc1.bias"
    write(path, header, arrays | {name: arrays[name].astype(changed)})
    with pytest.raises(ValueError, match=rf"expected {name} as float32, the file has"):
        CAPClassifier.load(path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tau": 3.0}, "'tau' parameter .* must be a float in the range"),
        ({"callbacks": ["print"]}, "expected callbacks as objects"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"inference": "no_adapters"}, "is not for tuning='adapter'"),
        ({"tuning": {"estimator": "AdapterTuning"}}, "expected an object's name and parameters"),
        (
            {"tuning": {"estimator": "AdapterTuning", "parameters": {"epochs": 0}}},
            "'epochs' parameter .* must be an int in the range",
        ),
    ],
)
def test_parameters_out_of_their_range_are_refused(fitted, path, parameters, message):
    change(fitted, path, parameters=parameters)
    with pytest.raises(ValueError, match=f"is not what capkit saves: .*{message}"):
        CAPClassifier.load(path)


@pytest.mark.parametrize(
    "header", [{"format": 3}, {"format": 3, "parameters": {}, "values": {}}, [], "3", {}]
)
def test_a_header_that_lacks_a_part_is_refused(fitted, path, header):
    fitted.save(path)
    _, arrays = read(path)
    save_file(arrays, path, metadata={"capkit": json.dumps(header)})
    with pytest.raises(ValueError, match="is not a classifier"):
        CAPClassifier.load(path)


def test_lists_in_lists_without_end_are_refused(fitted, path):
    fitted.save(path)
    _, arrays = read(path)
    save_file(arrays, path, metadata={"capkit": "[" * 100_000})
    with pytest.raises(ValueError, match="is not a classifier saved by capkit"):
        CAPClassifier.load(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected the file of a saved classifier, .* is a fol"):
        CAPClassifier.load(tmp_path)


def test_places_to_write_to_are_not_taken_from_a_file(problem, path, tmp_path):
    encoder = CLIPEncoder(cache_dir=tmp_path / "cache", batch_size=7)
    quick(checkpoint_dir=tmp_path / "run", encoder=encoder).fit(problem.space).save(path)
    loaded = CAPClassifier.load(path)
    assert loaded.checkpoint_dir is loaded.encoder.cache_dir is None
    assert loaded.encoder.batch_size == 7
    loaded.predict(problem.space)


def test_a_path_is_not_followed_without_a_fingerprint(random_backbone, images, path):
    fitted = quick(backbone=random_backbone, class_names=NAMES).fit(images)
    change(fitted, path, values={"backbone_id_": None})
    with pytest.raises(ValueError, match="names no backbone"):
        CAPClassifier.load(path).predict(images)


# -- a backbone that is elsewhere


@pytest.fixture
def moved(random_backbone, images, path, tmp_path):
    """A saved classifier whose backbone has moved: its scores, and the backbone's new path."""
    old = tmp_path / "old"
    shutil.copytree(Path(random_backbone).parent, old)
    encoder = CLIPEncoder(backbone=old / "random.pt", batch_size=5)
    fitted = quick(encoder=encoder, class_names=NAMES).fit(images)
    fitted.save(path)
    scores = fitted.decision_function(images)
    return scores, old.rename(tmp_path / "new") / "random.pt"


def test_a_backbone_that_is_gone_is_said_with_what_to_do(moved, images, path):
    message = (
        r"was at '.*old/random\.pt' \(fingerprint .*\): .*CAPClassifier\.load\(path, backbone="
    )
    with pytest.raises(BackboneNotFoundError, match=message):
        CAPClassifier.load(path).predict(images)


def test_the_same_backbone_is_taken_from_elsewhere(moved, images, path, tmp_path):
    scores, weights = moved
    loaded = CAPClassifier.load(path, backbone=weights)
    assert loaded.backbone == loaded.backbone_name_ == str(weights)
    assert np.array_equal(loaded.decision_function(images), scores)
    assert loaded.encoder.batch_size == 5
    loaded.fit(images, class_names=NAMES)  # the encoder names no other
    loaded.save(path)
    assert np.array_equal(CAPClassifier.load(path).decision_function(images), scores)


def test_a_folder_can_stand_in_for_a_checkpoint(moved, images, path):
    scores, weights = moved
    weights.with_suffix(".json").rename(weights.parent / "open_clip_config.json")
    loaded = CAPClassifier.load(path, backbone=f"local-dir:{weights.parent}")
    assert np.array_equal(loaded.decision_function(images), scores)


def test_another_backbone_is_not_taken_in_its_place(moved, path):
    with pytest.raises(BackboneMismatchError, match=r"the saved CAPClassifier expected .*'glyph'"):
        CAPClassifier.load(path, backbone="glyph")
    with pytest.raises(BackboneNotFoundError, match="there is no backbone 'nothing/like-it'"):
        CAPClassifier.load(path, backbone="nothing/like-it")


def test_without_a_fingerprint_no_backbone_is_taken(fitted, path, random_backbone):
    fitted.save(path)
    with pytest.raises(BackboneMismatchError, match="has no fingerprint of a backbone"):
        CAPClassifier.load(path, backbone=random_backbone)


@pytest.mark.parametrize("name", ["local-dir:/etc", "hf-hub:lab/plants", "/etc/model.pt"])
def test_no_name_that_a_file_can_choose_is_followed_without_a_fingerprint(fitted, path, name):
    change(fitted, path, values={"backbone_id_": None, "backbone_name_": name})
    assert CAPClassifier.load(path).backbone_name_ is None


@pytest.mark.parametrize("paradigm", ["ssl", "trzsl"])
def test_what_each_paradigm_writes_is_read(problem, path, paradigm):
    truth = problem.space.predict()
    labels = np.where((np.arange(100) < 20) & (truth < 3), truth, -1)
    prior = [1, 1, 1, 1, 2]
    classifier = quick(pseudo_labels=GaussianTransduction(guard=False, class_prior=prior))
    classifier.set_params(paradigm=paradigm, tuning__pseudo_adapter=False)
    classifier.fit(problem.space, labels).save(path)
    expected = classifier.predict_proba(problem.space)
    assert np.array_equal(CAPClassifier.load(path).predict_proba(problem.space), expected)
