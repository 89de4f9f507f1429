"""Sequences of images, however users have them, and fingerprints of them."""

import io
import pickle

import numpy as np
import pytest
import torch
from colour_images import (
    COLORS,
    ColorDataset,
    ColorTable,
    Image_,
    Value,
    encoded,
    every_kind,
    reds,
)
from PIL import Image, ImageFile

from capkit.exceptions import ImageReadError
from capkit.images import ImageSource

TABLES = ("table", "table with a transform")  # which say themselves how they are pickled


@pytest.mark.parametrize("kind", every_kind())
def test_every_kind_of_input_gives_the_same_images(kind):
    source = ImageSource.from_user(every_kind()[kind])
    assert len(source) == 7
    assert {image.size for image in source} == {(9, 6)}
    assert reds(source) == [color[0] for color in COLORS]
    assert ImageSource.from_user(source) is source


def test_paths_in_lists_tuples_arrays_and_series(colour_paths):
    pandas = pytest.importorskip("pandas")
    texts = [str(path) for path in colour_paths]
    series = pandas.Series(texts, index=range(7, 0, -1))  # [] would take its labels
    for given in (
        colour_paths,
        tuple(texts),
        np.array(texts),
        np.array(colour_paths, dtype=object),
        series,
    ):
        assert reds(ImageSource.from_user(given)) == [color[0] for color in COLORS]


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        ("folder", TypeError, "For a folder, pass capkit"),
        (Image.new("RGB", (2, 2)), TypeError, "got one Image. Pass a list"),
        ({"images": []}, TypeError, "got one dict"),
        (b"\x89PNG", TypeError, "got one bytes. Pass a list"),
        (io.BytesIO(), TypeError, "got one BytesIO. Pass a list"),
        ([io.StringIO()], TypeError, "image 0 is of type StringIO"),
        ([{"bytes": None, "path": None}], TypeError, "image 0 is of type NoneType"),
        (np.zeros((5, 8)), ValueError, r"got \(5, 8\), which looks like features.*class_names"),
        (
            {"train": ColorTable(), "test": ColorTable()},
            TypeError,
            "got one dict. Pass one of its splits: 'train', 'test'",
        ),
        (
            ColorTable(features={"label": Value()}),
            ValueError,
            r"one column of images, got 0 among label \(Value\).*cast_column",
        ),
        (
            ColorTable(features={"photo": Image_(), "mask": Image_()}),
            ValueError,
            r"got 2 among photo \(Image\), mask \(Image\)\. Keep the one.*select_columns",
        ),
        (iter([]), TypeError, "list_iterator, which has no length"),
        (3, TypeError, "got int"),
        ([1, 2], TypeError, "image 0 is of type int"),
        ([Image.new("L", (1, 1)), None], TypeError, "image 1 is of type NoneType"),
        (np.zeros((40, 30, 3), np.uint8), ValueError, "looks like one image"),
        (np.zeros((5, 3, 8, 8), np.uint8), ValueError, "move the channels to the end"),
        (np.zeros((5, 8), np.uint8), ValueError, r"\(n, H, W\).*got \(5, 8\)"),
        (np.zeros((5, 8, 8), np.int64), TypeError, "got int64"),
        (np.zeros((5, 0, 8, 3), np.uint8), ValueError, "height and width are at least 1"),
        (np.zeros((5, 8, 0), np.uint8), ValueError, "height and width are at least 1"),
        (np.array("a.png"), TypeError, "an array of no dimension: array.*Pass a list of images"),
        (np.array(None), TypeError, "an array of no dimension"),
        (list, TypeError, "got the class list itself. Pass an object of it"),
        (np.ndarray, TypeError, "got the class ndarray itself"),
        (torch.Tensor, TypeError, "got the class Tensor itself"),
        (ColorDataset, TypeError, "got the class ColorDataset itself"),
        (torch.zeros(5, 8, 8, 3), ValueError, r"tensor of shape \(n, 1 \| 3 \| 4, H, W\)"),
    ],
)
def test_what_is_no_sequence_of_images_is_refused_at_once(images, error, match):
    with pytest.raises(error, match=match):
        ImageSource.from_user(images)


def test_nothing_is_read_before_it_is_asked_for(broken_colour_paths):
    source = ImageSource.from_user(broken_colour_paths)
    assert reds(source.take([0, 2, 4, 6])) == [0, 20, 40, 60]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_unreadable_file_is_named_with_its_number(broken_colour_paths, number):
    # also where the source is a part of what the user gave
    source = ImageSource.from_user(broken_colour_paths).take([6, number])
    with pytest.raises(ImageReadError, match=rf"image {number} \(.*{number}\.png\)") as caught:
        source[1]
    assert caught.value.index == number
    assert caught.value.name == str(broken_colour_paths[number])


def test_error_of_a_dataset_is_kept_as_the_cause():
    source = ImageSource.from_user(ColorDataset(n_images=9))
    with pytest.raises(ImageReadError, match=r"image 8 \(ColorDataset\)") as caught:
        source[8]
    assert isinstance(caught.value.__cause__, IndexError)


def test_position_behind_the_end_is_an_index_error(colour_paths):
    with pytest.raises(IndexError):
        ImageSource.from_user(colour_paths)[7]


def test_slices_and_nested_takes_pick_the_right_images(colour_paths):
    source = ImageSource.from_user(colour_paths)
    assert reds(source[1:6:2]) == [10, 30, 50]
    assert reds(source.take([4, 2, 2]).take([2, 0])) == [20, 40]
    assert len(source.take([])) == 0


@pytest.mark.parametrize("kind", sorted(every_kind().keys() - {"Dataset", *TABLES}))
def test_pickle_keeps_the_wanted_images_only(kind):
    source = ImageSource.from_user(every_kind()[kind])
    part = pickle.dumps(source.take([5, 1]))
    assert reds(pickle.loads(part)) == [50, 10]
    assert len(part) < 0.6 * len(pickle.dumps(source))


def test_pickled_part_still_names_the_users_numbers(broken_colour_paths):
    part = ImageSource.from_user(broken_colour_paths).take([0, 3])
    with pytest.raises(ImageReadError, match="image 3 "):
        pickle.loads(pickle.dumps(part))[1]


@pytest.mark.parametrize("kind", every_kind())
def test_keys_of_all_images_are_the_keys_of_each(kind):
    source = ImageSource.from_user(every_kind()[kind]).take([3, 0, 3])
    keys, errors = source.keys()
    assert [keys[index] for index in range(3)] == [source.key(index) for index in range(3)]
    assert keys[0] == keys[2] != keys[1]
    assert errors == {}


def test_keys_report_missing_files(broken_colour_paths):
    keys, errors = ImageSource.from_user(broken_colour_paths).keys()
    # the cut file and the one that is no image are there: only reading them tells
    assert sorted(errors) == [5] and sorted(keys) == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("part", ["whole", "taken", "sliced", "pickled"])
def test_limit_goes_with_every_part_of_a_source(colour_paths, monkeypatch, part):
    source = ImageSource.from_user(colour_paths).limited(53)  # they are 9 x 6
    if part == "taken":
        source = source.take([0, 5])
    elif part == "sliced":
        source = source[0:6:5]
    elif part == "pickled":
        source = pickle.loads(pickle.dumps(source.take([0, 5])))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("was decoded"))
    number = 1 if part == "whole" else 5
    with pytest.raises(ImageReadError, match=rf"image {number} .*max_pixels=53 .*9 x 6 = 54"):
        source[1]
    monkeypatch.undo()
    assert source.limited(54)[1].size == source.limited(None)[1].size == (9, 6)


class OpeningDataset(ColorDataset):
    """A Dataset that opens files and leaves it to others to read them."""

    def __init__(self, paths):
        super().__init__(len(paths))
        self.paths = paths
        self.opened = []

    def __getitem__(self, index):
        self.opened.append(Image.open(self.paths[index]))
        return self.opened[-1], "label"


def test_limit_holds_for_opened_images_and_those_of_a_dataset(colour_paths):
    for images in (
        [Image.open(path) for path in colour_paths],
        OpeningDataset(colour_paths),
    ):
        source = ImageSource.from_user(images).limited(53)
        with pytest.raises(ImageReadError, match="max_pixels=53"):
            source[0]
    with pytest.raises(ImageReadError, match="max_pixels=53"):
        source.key(0)


def test_users_opened_images_are_not_left_loaded(colour_paths):
    opened = [Image.open(path) for path in colour_paths]
    source = ImageSource.from_user(opened)
    assert source.keys() == ImageSource.from_user(colour_paths).keys()
    assert reds(source) == [color[0] for color in COLORS]
    assert not any(image.fp is None or image.fp.closed for image in opened)


def test_files_that_a_dataset_has_opened_are_closed_by_reading(colour_paths):
    dataset = OpeningDataset(colour_paths)
    assert reds(ImageSource.from_user(dataset)) == [color[0] for color in COLORS]
    assert all(image.fp is None for image in dataset.opened)


# -- bytes, files and tables


def test_a_path_in_a_row_counts_where_it_has_no_bytes(colour_paths):
    rows = [{"bytes": None, "path": str(path)} for path in colour_paths]
    source = ImageSource.from_user(rows)
    assert reds(source) == [color[0] for color in COLORS]
    assert source.key(3) == ImageSource.from_user(colour_paths).key(3)
    colour_paths[2].unlink()
    with pytest.raises(ImageReadError, match=r"image 2 \(.*2\.png\)"):
        source[2]


def test_open_files_are_read_from_their_beginning_and_left_where_they_were(colour_paths):
    files = [path.open("rb") for path in colour_paths]
    for file in files:
        file.seek(5)
    source = ImageSource.from_user(files)
    for _ in "12":
        assert reds(source) == [color[0] for color in COLORS]
    assert [file.tell() for file in files] == [5] * 7
    files[4].close()
    with pytest.raises(ImageReadError, match=r"image 4 \(.*4\.png\).*closed file"):
        source[4]


def test_open_files_go_to_other_processes_as_what_they_hold(colour_paths):
    files = [(path.open("rb"), "label") for path in colour_paths]
    again = pickle.loads(pickle.dumps(ImageSource.from_user(files).take([6, 2])))
    assert reds(again) == [60, 20]


def test_fingerprints_of_bytes_files_and_rows_are_of_their_content():
    kinds = every_kind()
    names = ("bytes", "files", "rows", "table")
    keys = [ImageSource.from_user(kinds[name]).keys()[0] for name in names]
    assert keys[0] == keys[1] == keys[2] == keys[3]
    assert len(set(keys[0].values())) == 7
    assert ImageSource.from_user([encoded()[3] + b"more"]).key(0) != keys[0][3]


def test_a_table_is_not_decoded_for_its_fingerprints(monkeypatch):
    source = ImageSource.from_user(ColorTable())
    assert not source.keyed_by_reading
    monkeypatch.setattr(Image, "open", None)
    assert len(source.keys()[0]) == 7


def test_a_streamed_table_is_refused_with_what_to_do():
    class Stream:
        features = {"image": Image_()}

        def cast_column(self):
            raise AssertionError

    with pytest.raises(TypeError, match=r"got Stream, which has no .*without streaming=True"):
        ImageSource.from_user(Stream())


def test_a_preview_of_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(tmp_path):
    gradient = np.linspace(0, 255, 1600).astype(np.uint8)
    Image.fromarray(np.tile(gradient, (800, 1))).convert("RGB").save(
        tmp_path / "a.jpg", quality=95
    )
    Image.fromarray(np.tile(gradient, (800, 1))).convert("RGB").save(tmp_path / "a.png")
    source = ImageSource.from_user([tmp_path / "a.jpg", tmp_path / "a.png"])
    small = source.preview(0, 150)
    assert small.size == (400, 200)
    assert source.preview(1, 150).size == source[0].size == (1600, 800)
    full = np.asarray(source[0].resize(small.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(small) - full).mean() < 2


def test_a_preview_keeps_the_limit_on_pixels_and_names_what_cannot_be_read(tmp_path):
    Image.new("RGB", (400, 400)).save(tmp_path / "a.jpg")
    source = ImageSource.from_user([tmp_path / "a.jpg"]).limited(100_000)
    with pytest.raises(ImageReadError, match=r"a\.jpg.*max_pixels=100000"):
        source.preview(0, 50)
