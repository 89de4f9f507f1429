import csv
import os
import shutil

import numpy as np
import pytest
from photo_folders import NAMES, write_names, write_photos

from capkit import CAPClassifier, CLIPEncoder
from capkit.commands import label_folder
from capkit.exceptions import ClassNamesError, ImageReadError, LabelError
from capkit.image_files import find_images

pytestmark = pytest.mark.filterwarnings("error")


def glyph(**parameters):
    return CLIPEncoder("glyph", **parameters)


def quick(**parameters):
    return CAPClassifier(tuning="adapter", random_state=0, **parameters)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    """A folder with a damaged file and others among the photos, its true classes, and what
    labeling made of it."""
    folder = tmp_path_factory.mktemp("label")
    truth = write_photos(folder / "photos")
    (folder / "photos" / "zz-broken.jpeg").write_bytes(b"no image")
    (folder / "photos" / "notes.txt").touch()
    names = write_names(folder / "names.txt")
    labeling = label_folder(
        folder / "photos",
        names,
        folder / "labels.csv",
        encoder=glyph(),
        classifier=quick(),
    )
    return folder, truth, labeling


def read(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_file_is_in_the_table_with_label_runner_up_and_confidence(labeled):
    folder, truth, _ = labeled
    rows = read(folder / "labels.csv")
    assert [row["path"] for row in rows] == list(find_images(folder / "photos").names)
    read_rows = rows[:-1]
    assert {row["label"] for row in read_rows} <= set(NAMES)
    assert all(row["runner_up"] in NAMES for row in read_rows)
    assert all(row["runner_up"] != row["label"] for row in read_rows)
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in read_rows)
    right = [row["label"] == NAMES[index] for row, index in zip(read_rows, truth, strict=True)]
    assert np.mean(right) > 0.8


def test_a_damaged_file_is_listed_and_others_are_counted(labeled):
    folder, _, labeling = labeled
    row = read(folder / "labels.csv")[-1]
    assert row["path"] == "zz-broken.jpeg"
    assert row["label"] == row["runner_up"] == row["confidence"] == ""
    assert row["doubt"].startswith("could not be read: expected a file of a format")
    assert list(labeling.unreadable) == ["zz-broken.jpeg"]
    assert labeling.other_files == {".txt": 1}


def test_labels_are_those_of_the_classifier_fitted_on_the_same_images(labeled):
    folder, _, labeling = labeled
    paths = [path for path in find_images(folder / "photos").paths if path.suffix != ".jpeg"]
    classifier = quick(encoder=glyph()).fit(paths, class_names=NAMES)
    assert labeling.table.label_names[:-1] == classifier.predict(paths).tolist()
    probabilities = classifier.predict_proba(paths).max(axis=1)
    np.testing.assert_allclose(labeling.table.confidence[:-1], probabilities, atol=1e-5)


def test_the_model_that_was_written_gives_the_same_labels(labeled):
    folder, _, labeling = labeled
    paths = [path for path in find_images(folder / "photos").paths if path.suffix != ".jpeg"]
    loaded = CAPClassifier.load(folder / "labels.capkit")
    assert loaded.predict(paths).tolist() == labeling.table.label_names[:-1]


def test_the_report_lies_beside_the_labels_and_names_what_they_name(labeled):
    folder, _, labeling = labeled
    assert labeling.report == folder / "labels.html"
    page = labeling.report.read_text(encoding="utf-8")
    assert "zz-broken.jpeg" in page
    assert all(name in page for name in NAMES)


def test_corrections_are_kept_and_learned_from(labeled, tmp_path):
    folder, truth, first = labeled
    images = first.table.images
    rows = [(images[row], NAMES[truth[row]]) for row in range(6)]
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("path,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    again = label_folder(
        folder / "photos",
        NAMES,
        tmp_path / "labels.csv",
        labels=[corrections],
        encoder=glyph(),
        classifier=quick(),
    )
    assert again.classifier.paradigm_ == "ssl"
    assert again.n_given == 6
    assert again.table.label_names[:6] == [label for _, label in rows]
    np.testing.assert_array_equal(again.table.confidence[:6], 1.0)


def test_of_several_tables_the_later_overrules(labeled, tmp_path):
    folder, _, first = labeled
    image = first.table.images[0]
    for number, name in enumerate(["zero", "two"]):
        (tmp_path / f"{number}.csv").write_text(f"path,label\n{image},{name}\n")
    again = label_folder(
        folder / "photos",
        NAMES,
        tmp_path / "labels.csv",
        labels=[tmp_path / "0.csv", tmp_path / "1.csv"],
        report=None,
        model=None,
        encoder=glyph(),
        classifier=quick(),
    )
    assert again.table.label_names[0] == "two"
    assert again.classifier.paradigm_ == "ul"  # labels of one class teach nothing
    assert {path.name for path in tmp_path.iterdir()} == {"0.csv", "1.csv", "labels.csv"}


def test_nothing_to_read_is_an_error_that_names_the_first(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(ImageReadError, match=r"a\.jpg"):
        label_folder(tmp_path / "photos", NAMES, tmp_path / "labels.csv", encoder=glyph())
    assert not (tmp_path / "labels.csv").exists()


@pytest.fixture
def untouched(tmp_path, monkeypatch):
    """A folder of photos that must not be encoded."""
    write_photos(tmp_path / "photos", n_each=1)

    def fail(*_, **__):
        raise AssertionError("images were encoded before the input was checked")

    monkeypatch.setattr("capkit.commands.label.encode_folder", fail)
    return tmp_path


def test_bad_input_is_found_before_any_work(untouched):
    photos, out = untouched / "photos", untouched / "labels.csv"
    bad = untouched / "bad.csv"
    bad.write_text("path,label\n001.png,ten\n")
    with pytest.raises(LabelError, match="ten"):
        label_folder(photos, NAMES, out, labels=[bad])
    with pytest.raises(ClassNamesError):
        label_folder(photos, ["one", "one"], out)
    with pytest.raises(FileNotFoundError, match="names"):
        label_folder(photos, untouched / "names.txt", out)
    with pytest.raises(ValueError, match=r"\.xyz"):
        label_folder(photos, NAMES, untouched / "labels.xyz")


def test_files_that_could_not_be_written_are_found_before_any_work(untouched):
    photos = untouched / "photos"
    with pytest.raises(FileNotFoundError, match="make the folder"):
        label_folder(photos, NAMES, untouched / "nowhere" / "labels.csv")
    with pytest.raises(IsADirectoryError, match="got a folder"):
        label_folder(photos, NAMES, untouched / "labels.csv", report=photos)
    with pytest.raises(ValueError, match="twice"):
        label_folder(photos, NAMES, untouched / "labels.csv", model=untouched / "labels.csv")


def test_paths_may_be_strings(labeled, tmp_path):
    photos, out = str(labeled[0] / "photos"), str(tmp_path / "labels.csv")
    done = label_folder(photos, NAMES, out, encoder=glyph(), classifier=quick())
    assert done.report == tmp_path / "labels.html"
    assert {path.name for path in tmp_path.iterdir()} == {
        "labels.capkit",
        "labels.csv",
        "labels.html",
    }


def test_a_second_run_reads_no_image_again(labeled, tmp_path):
    folder = labeled[0]
    shutil.copytree(folder / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "zz-broken.jpeg").unlink()
    arguments = {
        "report": None,
        "model": None,
        "encoder": glyph(cache_dir=tmp_path / "cache"),
        "classifier": quick(),
    }
    first = label_folder(tmp_path / "photos", NAMES, tmp_path / "a.csv", **arguments)
    for path in find_images(tmp_path / "photos").paths:
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = label_folder(tmp_path / "photos", NAMES, tmp_path / "b.csv", **arguments)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert second.table.labels.tolist() == first.table.labels.tolist()
