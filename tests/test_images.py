"""Sequences of images, however users have them, and how they are decoded."""

import gc
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from capkit.exceptions import ImageReadError
from capkit.images import ImageSource, decode_pixels, read_batches

COLORS = [(10 * number, 0, 0) for number in range(7)]


@pytest.fixture
def paths(tmp_path):
    """Seven files whose red channel says which one they are."""
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 9, 3), dtype=np.uint8)
    for path, color, image in zip(paths, COLORS, pixels, strict=True):
        image[..., 0] = color[0]
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture
def broken_paths(paths):
    """The same files, of which 1 is cut, 3 is no image and 5 is not there."""
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    paths[3].write_text("no image")
    paths[5].unlink()
    return paths


class ColorDataset:
    """A Dataset as torch's are: length and items of (image, label)."""

    def __init__(self, n_images=7):
        self.n_images = n_images
        self.n_inside = 0
        self.most_inside = 0
        self.counting = threading.Lock()

    def __len__(self):
        return self.n_images

    def __getitem__(self, index):
        with self.counting:
            self.n_inside += 1
            self.most_inside = max(self.most_inside, self.n_inside)
        image = Image.new("RGB", (9, 6), COLORS[index])
        with self.counting:
            self.n_inside -= 1
        return image, "label"


def to_pixels(image):
    return np.asarray(image.resize((4, 4)))


def reds(source):
    return [image.getpixel((0, 0))[0] for image in source]


def every_kind():
    array = np.zeros((7, 6, 9, 3), dtype=np.uint8)
    array[..., 0] = 10 * np.arange(7)[:, None, None]
    return {
        "array": array,
        "list of arrays": list(array),
        "float array": array / 255,
        "tensor": torch.from_numpy(array).permute(0, 3, 1, 2),
        "list of tensors": list(torch.from_numpy(array).permute(0, 3, 1, 2)),
        "PIL": [Image.fromarray(one) for one in array],
        "pairs": [(Image.fromarray(one), 1) for one in array],
        "Dataset": ColorDataset(),
    }


@pytest.mark.parametrize("kind", every_kind())
def test_every_kind_of_input_gives_the_same_images(kind):
    source = ImageSource.from_user(every_kind()[kind])
    assert len(source) == 7
    assert {image.size for image in source} == {(9, 6)}
    assert reds(source) == [color[0] for color in COLORS]
    assert ImageSource.from_user(source) is source


def test_paths_in_lists_tuples_arrays_and_series(paths):
    pandas = pytest.importorskip("pandas")
    texts = [str(path) for path in paths]
    series = pandas.Series(texts, index=range(7, 0, -1))  # [] would take its labels
    for given in (paths, tuple(texts), np.array(texts), np.array(paths, dtype=object), series):
        assert reds(ImageSource.from_user(given)) == [color[0] for color in COLORS]


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        ("folder", TypeError, "For a folder, pass sorted"),
        (Image.new("RGB", (2, 2)), TypeError, "got one Image. Pass a list"),
        ({"images": []}, TypeError, "got one dict"),
        (iter([]), TypeError, "list_iterator, which has no length"),
        (3, TypeError, "got int"),
        ([1, 2], TypeError, "image 0 is of type int"),
        ([Image.new("L", (1, 1)), None], TypeError, "image 1 is of type NoneType"),
        (np.zeros((40, 30, 3), np.uint8), ValueError, "looks like one image"),
        (np.zeros((5, 3, 8, 8), np.uint8), ValueError, "move the channels to the end"),
        (np.zeros((5, 8), np.uint8), ValueError, r"\(n, H, W\).*got \(5, 8\)"),
        (np.zeros((5, 8, 8), np.int64), TypeError, "got int64"),
        (torch.zeros(5, 8, 8, 3), ValueError, r"tensor of shape \(n, 1 \| 3 \| 4, H, W\)"),
    ],
)
def test_what_is_no_sequence_of_images_is_refused_at_once(images, error, match):
    with pytest.raises(error, match=match):
        ImageSource.from_user(images)


def test_nothing_is_read_before_it_is_asked_for(broken_paths):
    source = ImageSource.from_user(broken_paths)
    assert reds(source.take([0, 2, 4, 6])) == [0, 20, 40, 60]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_unreadable_file_is_named_with_its_number(broken_paths, number):
    # also where the source is a part of what the user gave
    source = ImageSource.from_user(broken_paths).take([6, number])
    with pytest.raises(ImageReadError, match=rf"image {number} \(.*{number}\.png\)") as caught:
        source[1]
    assert caught.value.index == number
    assert caught.value.name == str(broken_paths[number])


def test_error_of_a_dataset_is_kept_as_the_cause():
    source = ImageSource.from_user(ColorDataset(n_images=9))
    with pytest.raises(ImageReadError, match=r"image 8 \(ColorDataset\)") as caught:
        source[8]
    assert isinstance(caught.value.__cause__, IndexError)


def test_position_behind_the_end_is_an_index_error(paths):
    with pytest.raises(IndexError):
        ImageSource.from_user(paths)[7]


def test_slices_and_nested_takes_pick_the_right_images(paths):
    source = ImageSource.from_user(paths)
    assert reds(source[1:6:2]) == [10, 30, 50]
    assert reds(source.take([4, 2, 2]).take([2, 0])) == [20, 40]
    assert len(source.take([])) == 0


@pytest.mark.parametrize("kind", every_kind().keys() - {"Dataset"})
def test_pickle_keeps_the_wanted_images_only(kind):
    source = ImageSource.from_user(every_kind()[kind])
    part = pickle.dumps(source.take([5, 1]))
    assert reds(pickle.loads(part)) == [50, 10]
    assert len(part) < 0.6 * len(pickle.dumps(source))


def test_pickled_part_still_names_the_users_numbers(broken_paths):
    part = ImageSource.from_user(broken_paths).take([0, 3])
    with pytest.raises(ImageReadError, match="image 3 "):
        pickle.loads(pickle.dumps(part))[1]


@pytest.mark.parametrize("kind", every_kind())
def test_keys_of_all_images_are_the_keys_of_each(kind):
    source = ImageSource.from_user(every_kind()[kind]).take([3, 0, 3])
    keys, errors = source.keys()
    assert [keys[index] for index in range(3)] == [source.key(index) for index in range(3)]
    assert keys[0] == keys[2] != keys[1]
    assert errors == {}


def test_keys_report_missing_files(broken_paths):
    keys, errors = ImageSource.from_user(broken_paths).keys()
    # the cut file and the one that is no image are there: only reading them tells
    assert sorted(errors) == [5] and sorted(keys) == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("n_jobs", [None, 1, 3, -1])
@pytest.mark.parametrize("kind", every_kind())
def test_batches_hold_the_wanted_images_in_order(kind, n_jobs):
    source = ImageSource.from_user(every_kind()[kind])
    wanted = np.array([6, 0, 3, 2, 5])
    batches = list(read_batches(source, wanted, to_pixels, 4, batch_size=2, n_jobs=n_jobs))
    assert [len(batch.indices) for batch in batches] == [2, 2, 1]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == wanted.tolist()
    pixels = np.concatenate([batch.pixels for batch in batches])
    assert pixels.shape == (5, 4, 4, 3)
    assert pixels[:, 0, 0, 0].tolist() == (10 * wanted).tolist()


def test_batches_report_what_could_not_be_read(broken_paths):
    source = ImageSource.from_user(broken_paths)
    (batch,) = read_batches(source, np.arange(7), to_pixels, 4)
    assert batch.indices.tolist() == [0, 2, 4, 6]
    assert {index: error.index for index, error in batch.errors.items()} == {1: 1, 3: 3, 5: 5}


def test_pixels_of_the_right_size_are_not_touched():
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    source = ImageSource.from_user(array).take([4, 1])

    def fail(image):
        raise AssertionError("nothing is to be resized")

    (batch,) = read_batches(source, np.arange(2), fail, 4)
    np.testing.assert_array_equal(batch.pixels, array[[4, 1]])


def test_dataset_is_asked_by_one_thread_at_a_time():
    dataset = ColorDataset()
    source = ImageSource.from_user(dataset)
    list(read_batches(source, np.arange(7).repeat(20), to_pixels, 4, batch_size=20, n_jobs=4))
    assert dataset.most_inside == 1


def test_reading_stops_with_the_one_who_asked(paths):
    n_read = 0

    def counting(image):
        nonlocal n_read
        n_read += 1
        return to_pixels(image)

    source = ImageSource.from_user(paths)
    indices = np.arange(7).repeat(100)
    batches = read_batches(source, indices, counting, 4, batch_size=10, n_jobs=2)
    next(batches)
    batches.close()
    assert n_read <= 20  # the batch that was asked for and the one ahead of it
    assert not [t for t in threading.enumerate() if t.name.startswith("capkit-decode")]


def test_decoded_pixels_are_those_of_each_image(paths):
    source = ImageSource.from_user(paths)
    pixels = decode_pixels(source, to_pixels)
    np.testing.assert_array_equal(pixels, np.stack([to_pixels(image) for image in source]))
    assert pixels.dtype == np.uint8


def test_large_pixels_are_kept_in_a_file_that_goes_with_them(paths, tmp_path):
    folder = tmp_path / "pixels"
    source = ImageSource.from_user(paths)
    pixels = decode_pixels(source, to_pixels, memory_limit=100, folder=folder)
    assert isinstance(pixels, np.memmap)
    np.testing.assert_array_equal(pixels, decode_pixels(source, to_pixels))
    del pixels
    gc.collect()
    assert list(folder.iterdir()) == []


def test_decoding_raises_at_an_unreadable_image(broken_paths):
    with pytest.raises(ImageReadError, match="image 1 "):
        decode_pixels(ImageSource.from_user(broken_paths), to_pixels)


def test_decoding_no_images_gives_none():
    assert len(decode_pixels(ImageSource.from_user([]), to_pixels)) == 0
