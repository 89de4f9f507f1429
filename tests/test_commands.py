"""The commands beside label: predict, inspect, compare, demo, info."""

import json

import numpy as np
import pytest
from photo_folders import NAMES, write_class_folders, write_names, write_photos
from tiny_models import save_random_clip

import capkit
from capkit import CAPClassifier, CLIPEncoder
from capkit.baselines import ZeroShotClassifier
from capkit.commands import (
    compare_folder,
    describe_installation,
    inspect_folder,
    label_folder,
    predict_folder,
    run_demo,
)
from capkit.datasets import load_digits
from capkit.exceptions import (
    BackboneMismatchError,
    BackboneNotFoundError,
    ClassNamesError,
    LabelError,
)
from capkit.report import ReportContent


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    write_photos(folder / "photos")
    labeling = label_folder(
        folder / "photos",
        NAMES,
        folder / "labels.csv",
        report=None,
        encoder=CLIPEncoder("glyph", template="the {}"),
        classifier=CAPClassifier(tuning="adapter", random_state=0),
    )
    return folder, labeling


# -- predict


def test_predicting_the_photos_that_were_adapted_to_gives_their_labels(labeled):
    folder, labeling = labeled
    encoder = CLIPEncoder()  # the backbone is the model's
    prediction = predict_folder(
        folder / "labels.capkit", folder / "photos", folder / "again.csv", encoder=encoder
    )
    table = prediction.table
    assert table.images == labeling.table.images
    assert table.labels.tolist() == labeling.table.labels.tolist()
    np.testing.assert_allclose(table.confidence, labeling.table.confidence, atol=1e-5)
    assert encoder.backbone == "auto"


@pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
def test_a_model_of_features_alone_cannot_label_photos(labeled, tmp_path):
    folder, _ = labeled
    space = CLIPEncoder("glyph", class_names=NAMES).fit_transform(
        load_digits(split="train").images[:40]
    )
    features = capkit.ConceptSpace(space.image_features, space.text_features, NAMES)
    classifier = CAPClassifier(tuning="adapter", random_state=0).fit(features)
    classifier.save(tmp_path / "features.capkit")
    with pytest.raises(BackboneMismatchError, match="does not say which backbone"):
        predict_folder(tmp_path / "features.capkit", folder / "photos", tmp_path / "labels.csv")


def test_a_model_that_was_fitted_on_indices_names_its_labels(tmp_path):
    truth = write_photos(tmp_path / "photos")
    names = ("two", "zero", "one")  # not in alphabetical order
    digits = load_digits(split="train")
    rows = np.flatnonzero(digits.target < 3)
    y = np.array([(digits.target[row] + 1) % 3 for row in rows])
    y[20:] = -1
    classifier = CAPClassifier(
        "ssl", encoder=CLIPEncoder("glyph"), tuning="adapter", random_state=0
    )
    classifier.fit(digits.images[rows], y, class_names=names).save(tmp_path / "indices.capkit")
    prediction = predict_folder(
        tmp_path / "indices.capkit", tmp_path / "photos", tmp_path / "labels.csv"
    )
    right = [
        label == NAMES[index]
        for label, index in zip(prediction.table.label_names, truth, strict=True)
    ]
    assert np.mean(right) > 0.8


def test_a_model_whose_checkpoint_was_moved_is_told_where_it_is(tmp_path):
    (tmp_path / "before").mkdir()
    weights = save_random_clip(tmp_path / "before")
    write_photos(tmp_path / "photos")
    label_folder(
        tmp_path / "photos",
        NAMES,
        tmp_path / "labels.csv",
        report=None,
        encoder=CLIPEncoder(weights),
        classifier=CAPClassifier(tuning="adapter", random_state=0),
    )
    (tmp_path / "before").rename(tmp_path / "after")
    arguments = (tmp_path / "labels.capkit", tmp_path / "photos", tmp_path / "again.csv")
    with pytest.raises(BackboneNotFoundError):
        predict_folder(*arguments)
    predict_folder(*arguments, backbone=tmp_path / "after" / weights.name)
    again, labels = ((tmp_path / name).read_text() for name in ("again.csv", "labels.csv"))
    assert [row.split(",")[1] for row in again.splitlines()] == [
        row.split(",")[1] for row in labels.splitlines()
    ]


def test_doubts_are_told_how_similar_each_image_is_to_the_nearest_name(
    labeled, tmp_path, monkeypatch
):
    folder, labeling = labeled
    told = []

    def note(probabilities, labels, *, similarity, **_):
        told.append(similarity)
        return [""] * len(labels)

    monkeypatch.setattr("capkit.report.content.reasons_for_doubt", note)
    monkeypatch.setattr("capkit.commands.predict.reasons_for_doubt", note)
    encoder = CLIPEncoder("glyph", template="the {}", class_names=NAMES)
    space = encoder.fit_transform([folder / "photos" / name for name in labeling.table.images])
    ReportContent.from_classifier(labeling.classifier, space, image_names=labeling.table.images)
    ReportContent.from_space(space, image_names=labeling.table.images)
    predict_folder(folder / "labels.capkit", folder / "photos", tmp_path / "again.csv")
    assert len(told) == 3
    for similarity in told:
        np.testing.assert_allclose(similarity, space.logits().max(axis=1), rtol=1e-4)


# -- inspect


def test_inspecting_counts_zero_shot_labels_and_trains_nothing(labeled, tmp_path):
    folder, _ = labeled
    encoder = CLIPEncoder("glyph")
    found = inspect_folder(
        folder / "photos", NAMES, report=tmp_path / "look.html", encoder=encoder
    )
    paths = [folder / "photos" / name for name in labeled[1].table.images]
    zero_shot = ZeroShotClassifier(encoder=encoder).fit(paths, class_names=NAMES).predict(paths)
    assert found.counts.tolist() == [int((zero_shot == name).sum()) for name in NAMES]
    assert found.n_images == len(paths)
    assert "two" in found.report.read_text(encoding="utf-8")


def test_confused_pairs_come_with_the_largest_first_and_none_below_half_an_image():
    confusions = np.array([[0, 3, 0.4], [3, 0, 7], [0.4, 7, 0]])
    found = inspect_of(confusions)
    assert found.confused_pairs() == [("one", "two", 7.0), ("zero", "one", 3.0)]
    assert found.confused_pairs(1) == [("one", "two", 7.0)]


def inspect_of(confusions):
    from capkit.commands import Inspection

    return Inspection(
        class_names=NAMES,
        counts=np.ones(3, dtype=int),
        confidence=np.ones(3),
        mismatched=(),
        confusions=confusions,
        n_images=3,
        unreadable={},
        other_files={},
        report=None,
    )


# -- compare


def test_comparing_takes_classes_from_the_folders(tmp_path):
    write_class_folders(tmp_path / "known")
    comparison = compare_folder(
        tmp_path / "known",
        estimators={"zero-shot": ZeroShotClassifier()},
        seeds=[0],
        out=tmp_path / "table.csv",
        plot=tmp_path / "plot.png",
        encoder=CLIPEncoder("glyph"),
        verbose=0,
    )
    assert set(comparison.table["error"]) == {""}
    assert set(comparison.table["n_classes"]) == {3}
    assert (comparison.table["accuracy"] > 0.8).all()
    assert (tmp_path / "table.csv").exists() and (tmp_path / "plot.png").exists()


def test_comparing_leaves_out_what_a_table_gives_no_label_and_what_is_damaged(tmp_path):
    truth = write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "000.png").write_bytes(b"damaged")
    from capkit.image_files import find_images

    names = find_images(tmp_path / "photos").names
    target = dict(zip([name for name in names if name != "000.png"], truth, strict=True))
    rows = [f"{name},{NAMES[index]}\n" for name, index in target.items()][:30]
    (tmp_path / "truth.csv").write_text("path,label\n" + "".join([*rows, "000.png,zero\n"]))
    comparison = compare_folder(
        tmp_path / "photos",
        class_names=write_names(tmp_path / "names.txt"),
        labels=tmp_path / "truth.csv",
        estimators={"zero-shot": ZeroShotClassifier()},
        seeds=[0],
        encoder=CLIPEncoder("glyph"),
        verbose=0,
    )
    assert comparison.table["n_images"].sum() == 30
    assert (comparison.table["accuracy"] > 0.8).all()


def test_comparing_says_what_is_wrong_with_folders(tmp_path):
    write_class_folders(tmp_path / "known", n_each=1)
    with pytest.raises(ClassNamesError, match="'digit_one' is no class"):
        compare_folder(tmp_path / "known", class_names=NAMES)
    with pytest.raises(ClassNamesError, match="need class_names"):
        compare_folder(tmp_path / "known", labels=tmp_path / "labels.csv")
    (tmp_path / "known" / "digit_one").rename(tmp_path / "known" / "digit two")
    with pytest.raises(ClassNamesError, match="same name but for blanks"):
        compare_folder(tmp_path / "known")
    write_photos(tmp_path / "loose", n_each=1)
    with pytest.raises(LabelError, match="directly in"):
        compare_folder(tmp_path / "loose")


# -- demo, info


@pytest.mark.slow
def test_the_demo_adapts_and_keeps_photos_names_and_report(tmp_path):
    demo = run_demo(tmp_path / "demo", verbose=0)
    digits = load_digits()
    assert len(list(demo.photos.iterdir())) == len(digits.images)
    assert demo.class_names.read_text().splitlines() == list(digits.class_names)
    assert demo.accuracy_after > demo.accuracy_before + 0.05
    assert demo.labeling.report.exists() and demo.labeling.model.exists()


def test_info_tells_whether_the_weights_are_there(tmp_path, monkeypatch):
    what = "ViT-B-32/openai (auto)"
    looked_for = []
    monkeypatch.setattr(
        "capkit.backbones.registry._cached_weights", lambda *given: looked_for.append(given)
    )
    assert describe_installation()[what] == "not on this disk: fetched at first use"
    monkeypatch.setattr("capkit.backbones.registry._cached_weights", lambda *_: tmp_path)
    assert describe_installation()[what] == "on this disk"
    assert "openai" in str(looked_for[0][0])


def test_info_names_versions_and_what_is_missing(monkeypatch):
    from importlib import metadata

    facts = describe_installation()
    assert capkit.__version__ in facts["capkit"]
    assert facts["torch"] == metadata.version("torch")
    assert ".jpg" in facts["images"].split(", ")
    monkeypatch.setattr("capkit.commands.info._is_installed", lambda package: False)
    missing = describe_installation()
    assert 'pip install "capkit-clip[compare]"' in missing["for capkit compare"]
    assert json.loads(json.dumps(facts)) == facts
