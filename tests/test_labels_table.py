"""A table of labels holds what fits together, and says it row by row."""

import sys
from pathlib import Path

import numpy as np
import pytest

from capkit.labels import LabelTable

GOOD = {
    "folder": "/photos",
    "images": ["1.jpg", "trip/2.jpg", "3.jpg", "trip/1.jpg"],
    "class_names": ["forest", "river", "lake"],
    "labels": [2, -1, 0, 1],
    "runners_up": [1, -1, 2, 0],
    "confidence": [0.5, np.nan, 0.25, 1],
    "doubts": ["may be river as well (45%)", "could not be read: it is cut off", "", ""],
}


@pytest.fixture
def table():
    return LabelTable(**GOOD)


def test_rows_name_classes_and_leave_out_what_an_unread_image_has_not(table):
    assert len(table) == 4
    assert table.label_names == ["lake", None, "forest", "river"]
    assert table.runner_up_names == ["river", None, "lake", "forest"]
    rows = list(table.rows())
    assert rows[1] == {
        "path": "trip/2.jpg",
        "label": None,
        "runner_up": None,
        "confidence": None,
        "doubt": "could not be read: it is cut off",
    }
    assert list(rows[3].values()) == ["trip/1.jpg", "river", "forest", 1.0, ""]


def test_values_are_kept_as_tuples_and_arrays_that_nobody_can_change(table):
    assert table.folder == Path("/photos")
    assert table.images == tuple(GOOD["images"])
    assert table.class_names == ("forest", "river", "lake")
    assert table.labels.dtype == table.runners_up.dtype == np.int64
    for array in (table.labels, table.runners_up, table.confidence):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_table_does_not_change_with_the_arrays_it_was_made_of():
    labels = np.array(GOOD["labels"])
    table = LabelTable(**{**GOOD, "labels": labels})
    labels[0] = 0
    assert table.labels[0] == 2


def test_most_doubtful_goes_up_in_confidence_and_ends_with_unread_images(table):
    assert table.most_doubtful().tolist() == [2, 0, 3, 1]


def test_equally_doubtful_images_stay_in_order():
    table = LabelTable(**{**GOOD, "confidence": [0.5, np.nan, 0.5, 0.5]})
    assert table.most_doubtful().tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize(
    "rows", [[3, 0], np.array([-1, 0]), slice(3, None, -3)], ids=["list", "array", "slice"]
)
def test_select_takes_rows_in_the_order_asked_for(table, rows):
    chosen = table.select(rows)
    assert list(chosen.rows()) == [list(table.rows())[row] for row in (3, 0)]
    assert chosen.folder == table.folder and chosen.class_names == table.class_names


def test_select_takes_a_mask_and_nothing(table):
    assert table.select(table.confidence < 0.6).images == ("1.jpg", "3.jpg")
    assert list(table.select([]).rows()) == []
    with pytest.raises(IndexError):
        table.select([4])


def test_repr_counts(table):
    shown = "LabelTable(folder='/photos', 4 images, 3 classes, 1 could not be read)"
    assert repr(table) == shown
    assert repr(table.select([0])) == "LabelTable(folder='/photos', 1 images, 3 classes)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "photos"}, "expected an absolute folder, got 'photos'"),
        ({"images": "1.jpg"}, "expected images as a sequence of str, got the str"),
        ({"images": [Path("1.jpg"), "b", "c", "d"]}, "expected images as str, got .*Path"),
        ({"images": ["1.jpg", "b", "c", "1.jpg"]}, "each image once, got several times: '1.jpg'"),
        ({"images": ["a", "b", "c", "\udcff.jpg"]}, "expected images that UTF-8 can write"),
        ({"doubts": ["", "\ud800", "", ""]}, "expected doubts that UTF-8 can write"),
        ({"doubts": [""]}, r"expected doubts of shape \(4,\), one for each image, got \(1,\)"),
        ({"labels": [0, -1, 0]}, r"expected labels of shape \(4,\).* got \(3,\)"),
        ({"labels": [[0, -1, 0, 1]]}, r"expected labels of shape \(4,\).* got \(1, 4\)"),
        ({"labels": [2.0, -1, 0, 1]}, "expected labels as integers, got an array of float64"),
        ({"labels": [3, -1, 0, 1]}, "expected labels from 0 to 2, .* got 3"),
        ({"labels": [-2, -1, 0, 1]}, "expected labels from 0 to 2, .* got -2"),
        ({"runners_up": [1, -1, 3, 0]}, "expected runners_up from 0 to 2, .* got 3"),
        ({"runners_up": [1, 0, 2, 0]}, "expected runners_up of -1 where labels are -1, and only"),
        ({"runners_up": [2, -1, 1, 0]}, "expected runners_up other than the labels"),
        ({"confidence": [0.5, 0.5, 0.5, 1]}, "expected a confidence of NaN where labels are -1"),
        ({"confidence": [0.5, np.nan, np.nan, 1]}, "NaN where labels are -1, and only there"),
        ({"confidence": [0.5, np.nan, 1.5, 1]}, r"expected a confidence in \[0, 1\], got 1.5"),
        ({"confidence": [0.5, np.nan, -0.1, 1]}, r"expected a confidence in \[0, 1\], got -0.1"),
        ({"class_names": ["forest"]}, "expected at least 2 class_names, got 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LabelTable(**{**GOOD, **changes})


@pytest.mark.parametrize(
    "image",
    ["", ".", "..", "/photos/1.jpg", "../1.jpg", "a/../1.jpg", "./1.jpg", "a//1.jpg", "a/"],
)
def test_images_are_plain_paths_inside_of_the_folder(image):
    with pytest.raises(ValueError, match="expected images as plain paths inside of the folder"):
        LabelTable(**{**GOOD, "images": ["a.jpg", "b.jpg", "c.jpg", image]})


@pytest.mark.parametrize("image", ["..jpg", "...", "..a/1.jpg", "a\\b.jpg", " ", "=1.jpg"])
def test_odd_names_of_files_are_names(image):
    table = LabelTable(**{**GOOD, "images": ["a.jpg", "b.jpg", "c.jpg", image]})
    assert table.images[3] == image


def test_frame_has_a_row_an_image_and_misses_what_was_not_read(table):
    pd = pytest.importorskip("pandas")
    frame = table.to_frame()
    assert frame.columns.tolist() == ["path", "label", "runner_up", "confidence", "doubt"]
    assert frame["path"].tolist() == GOOD["images"]
    assert frame["label"].isna().tolist() == [False, True, False, False]
    assert frame["runner_up"].dropna().tolist() == ["river", "lake", "forest"]
    assert frame["doubt"].tolist() == GOOD["doubts"]
    np.testing.assert_array_equal(frame["confidence"], GOOD["confidence"])
    nothing = table.select([1]).to_frame()
    assert isinstance(nothing["label"].dtype, pd.StringDtype)


def test_without_pandas_the_error_says_how_to_install_it(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "capkit-clip\[parquet\]"'):
        table.to_frame()
