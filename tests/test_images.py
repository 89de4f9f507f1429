"""Sequences of images, however users have them, and how they are decoded."""

import collections
import gc
import os
import pickle
import tempfile
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
import torch
from joblib.parallel import ThreadingBackend
from open_clip.transform import PreprocessCfg
from PIL import Image

from capkit import images
from capkit.backbones.preprocessing import Preprocessing
from capkit.exceptions import ImageReadError
from capkit.images import ImageSource, decode_for_training, decode_pixels, read_batches

TO_FOUR = Preprocessing(PreprocessCfg(size=4))
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
        time.sleep(0.0001)  # lets another thread in, if one may
        with self.counting:
            self.n_inside -= 1
        return image, "label"


class ProcessDataset:
    """A Dataset whose images say in which process they were made, with nothing to resize."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return Image.new("RGB", (4, 4), tuple(os.getpid().to_bytes(3, "big")))


class CountingResizer:
    """Resizes to 4 x 4 and counts the images; slow enough that others can run meanwhile."""

    image_size = 4

    def __init__(self):
        self.n_images = 0
        self.counting = threading.Lock()

    def __call__(self, image):
        time.sleep(0.001)
        with self.counting:
            self.n_images += 1
        return TO_FOUR(image)


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
    batches = list(read_batches(source, wanted, TO_FOUR, batch_size=2, n_jobs=n_jobs))
    assert [len(batch.indices) for batch in batches] == [2, 2, 1]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == wanted.tolist()
    pixels = np.concatenate([batch.pixels for batch in batches])
    assert pixels.shape == (5, 4, 4, 3)
    assert pixels[:, 0, 0, 0].tolist() == (10 * wanted).tolist()


def test_batches_report_what_could_not_be_read(broken_paths):
    source = ImageSource.from_user(broken_paths)
    (batch,) = read_batches(source, np.arange(7), TO_FOUR)
    assert batch.indices.tolist() == [0, 2, 4, 6]
    assert {index: error.index for index, error in batch.errors.items()} == {1: 1, 3: 3, 5: 5}


def test_pixels_of_the_right_size_are_not_touched():
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    source = ImageSource.from_user(array).take([4, 1])

    counting = CountingResizer()
    (batch,) = read_batches(source, np.arange(2), counting)
    np.testing.assert_array_equal(batch.pixels, array[[4, 1]])
    assert counting.n_images == 0


def test_dataset_is_asked_by_one_thread_at_a_time():
    dataset = ColorDataset()
    source = ImageSource.from_user(dataset)
    list(read_batches(source, np.arange(7).repeat(20), TO_FOUR, batch_size=20, n_jobs=4))
    assert dataset.most_inside == 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_reading_stops_with_the_one_who_asked(paths, n_jobs):
    counting, before = CountingResizer(), threading.active_count()
    indices = np.arange(7).repeat(100)
    source = ImageSource.from_user(paths)
    batches = read_batches(source, indices, counting, batch_size=10, n_jobs=n_jobs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        next(batches)
        batches.close()
    assert not caught
    n_images = counting.n_images
    assert n_images <= 10 * n_jobs  # threads have read the next batch; without, nobody has
    wait_until(lambda: threading.active_count() <= before)
    assert counting.n_images == n_images


def test_reading_is_a_batch_ahead_and_no_more(paths):
    counting, source = CountingResizer(), ImageSource.from_user(paths)
    indices = np.arange(7).repeat(100)
    batches = read_batches(source, indices, counting, batch_size=10, n_jobs=2)
    for number in range(1, 4):
        next(batches)
        wait_until(lambda: counting.n_images >= 10 * number + 10)  # noqa: B023
        time.sleep(0.05)  # for more, if there were more
        assert counting.n_images == 10 * number + 10
    batches.close()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited ten seconds in vain"
        time.sleep(0.005)


def test_error_of_another_kind_reaches_the_one_who_asked(paths):
    def run_out(image):
        raise MemoryError("no more")

    run_out.image_size = 4
    batches = read_batches(ImageSource.from_user(paths), np.arange(7), run_out, n_jobs=2)
    with pytest.raises(MemoryError, match="no more"):
        next(batches)


@pytest.mark.parametrize("n_jobs", [0, -5])
@pytest.mark.parametrize("shape", [(5, 4, 4, 3), (5, 6, 9, 3)])
def test_impossible_number_of_workers_is_refused(n_jobs, shape):
    source = ImageSource.from_user(np.zeros(shape, dtype=np.uint8))
    for read in (
        lambda: next(read_batches(source, np.arange(5), TO_FOUR, n_jobs=n_jobs)),
        lambda: decode_pixels(source, TO_FOUR, n_jobs=n_jobs),
        lambda: decode_for_training(source, TO_FOUR, n_jobs=n_jobs),
    ):
        with pytest.raises(ValueError, match=f"expected n_jobs of at least 1.*got {n_jobs}"):
            read()


class RecordingBackend(ThreadingBackend):
    """Threads that say how many of them were asked for."""

    asked: list

    def configure(self, n_jobs=1, parallel=None, **options):
        self.asked.append(n_jobs)
        return super().configure(n_jobs, parallel, **options)


@pytest.mark.parametrize(
    ("configured", "n_jobs", "expected"),
    [({}, None, 3), ({"n_jobs": 2}, None, 2), ({"n_jobs": 2}, 5, 5), ({"n_jobs": -2}, None, 2)],
)
def test_configured_backend_reads_with_its_number_of_workers(
    paths, monkeypatch, configured, n_jobs, expected
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda: 3)
    backend = RecordingBackend()
    backend.asked = []
    source = ImageSource.from_user(paths)
    with joblib.parallel_config(backend=backend, **configured):
        list(read_batches(source, np.arange(7), TO_FOUR, batch_size=2, n_jobs=n_jobs))
    assert backend.asked == [expected]


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 8), (-1, 12)])
def test_number_of_threads_follows_the_cpus(paths, monkeypatch, n_jobs, expected):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda: 12)
    asked = []
    configure = ThreadingBackend.configure

    def recording(backend, n_jobs=1, parallel=None, **options):
        asked.append(n_jobs)
        return configure(backend, n_jobs, parallel, **options)

    monkeypatch.setattr(ThreadingBackend, "configure", recording)
    list(read_batches(ImageSource.from_user(paths), np.arange(7), TO_FOUR, n_jobs=n_jobs))
    assert asked == [expected]


def test_number_of_workers_may_be_configured_without_a_backend(paths):
    threads = set()

    def noting(image):
        time.sleep(0.01)
        threads.add(threading.get_ident())
        return TO_FOUR(image)

    noting.image_size = 4
    for n_jobs in (1, 3):
        threads.clear()
        with joblib.parallel_config(n_jobs=n_jobs):
            list(read_batches(ImageSource.from_user(paths), np.arange(7).repeat(5), noting))
        assert len(threads) == n_jobs


def test_processes_read_the_same_batches_when_configured(broken_paths):
    source = ImageSource.from_user(broken_paths)
    dataset = ImageSource.from_user(ProcessDataset())
    expected = list(read_batches(source, np.arange(7), TO_FOUR, batch_size=3))
    with joblib.parallel_config(backend="loky", n_jobs=2):
        batches = list(read_batches(source, np.arange(7), TO_FOUR, batch_size=3))
        (made,) = read_batches(dataset, np.arange(8), TO_FOUR)
    for batch, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch.indices, other.indices)
        np.testing.assert_array_equal(batch.pixels, other.pixels)
        assert {index: str(error) for index, error in batch.errors.items()} == {
            index: str(error) for index, error in other.errors.items()
        }
    processes = {int.from_bytes(pixels[0, 0].tobytes(), "big") for pixels in made.pixels}
    assert os.getpid() not in processes
    assert len(made.keys) == 8


def test_decoded_pixels_are_those_of_each_image(paths):
    source = ImageSource.from_user(paths)
    pixels = decode_pixels(source, TO_FOUR)
    np.testing.assert_array_equal(pixels, np.stack([TO_FOUR(image) for image in source]))
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("decode", [decode_pixels, decode_for_training])
def test_large_pixels_are_kept_in_a_file_that_goes_with_them(paths, tmp_path, monkeypatch, decode):
    source = ImageSource.from_user(paths)
    expected = decode(source, TO_FOUR)
    folder = tmp_path / "pixels"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(images, "_MEMORY_LIMIT", 100)
    decoded = decode(source, TO_FOUR)
    in_files = [decoded] if decode is decode_pixels else decoded[:2]
    assert all(isinstance(array, np.memmap) for array in in_files)
    for array, other in zip(decoded, expected, strict=True):
        np.testing.assert_array_equal(array, other)
    del decoded, in_files, array
    gc.collect()
    assert list(folder.iterdir()) == []


def test_copies_for_training_are_those_that_pillow_makes(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "landscape.png", tmp_path / "portrait.png", tmp_path / "small.png"]
    for path, shape in zip(paths, [(30, 60, 3), (50, 20, 3), (3, 3, 3)], strict=True):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    copies = decode_for_training(ImageSource.from_user(paths), TO_FOUR)
    np.testing.assert_allclose(copies.aspect, [2, 0.4, 1])
    assert copies.aspect.dtype == np.float32
    assert copies.whole.shape == (3, 8, 8, 3)
    for row, path in enumerate(paths):
        image = Image.open(path)
        np.testing.assert_array_equal(copies.pixels[row], TO_FOUR(image))
        whole = image.resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(copies.whole[row], np.asarray(whole))


def test_images_are_opened_once_for_both_copies(paths, monkeypatch):
    opened = collections.Counter()
    open_image = Image.open

    def counting(path):
        opened[path] += 1
        return open_image(path)

    monkeypatch.setattr(Image, "open", counting)
    decode_for_training(ImageSource.from_user(paths), TO_FOUR, n_jobs=2)
    assert opened == dict.fromkeys(paths, 1)


def test_pixels_of_the_right_size_are_not_copied_for_training():
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    copies = decode_for_training(ImageSource.from_user(array), TO_FOUR)
    assert copies.pixels is array and copies.whole is array
    assert copies.aspect.tolist() == [1.0] * 5


@pytest.mark.parametrize("decode", [decode_pixels, decode_for_training])
def test_decoding_raises_at_an_unreadable_image(broken_paths, decode):
    with pytest.raises(ImageReadError, match="image 1 "):
        decode(ImageSource.from_user(broken_paths), TO_FOUR)


def test_decoding_no_images_gives_none():
    source = ImageSource.from_user([])
    assert decode_pixels(source, TO_FOUR).shape == (0, 4, 4, 3)
    copies = decode_for_training(source, TO_FOUR)
    assert [len(array) for array in copies] == [0, 0, 0]
