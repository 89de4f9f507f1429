"""Decoding images in parallel."""

import collections
import gc
import os
import tempfile
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
from colour_images import ColorDataset, every_kind
from joblib.parallel import ThreadingBackend
from open_clip.transform import PreprocessCfg
from PIL import Image

from capkit import decoding
from capkit.backbones.preprocessing import Preprocessing
from capkit.decoding import decode_for_training, decode_pixels, read_batches
from capkit.exceptions import ImageReadError
from capkit.images import ImageSource

TO_FOUR = Preprocessing(PreprocessCfg(size=4))


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


def test_batches_report_what_could_not_be_read(broken_colour_paths):
    source = ImageSource.from_user(broken_colour_paths)
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
def test_reading_stops_with_the_one_who_asked(colour_paths, n_jobs):
    counting, before = CountingResizer(), threading.active_count()
    indices = np.arange(7).repeat(100)
    source = ImageSource.from_user(colour_paths)
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


def test_reading_is_a_batch_ahead_and_no_more(colour_paths):
    counting, source = CountingResizer(), ImageSource.from_user(colour_paths)
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


def test_error_of_another_kind_reaches_the_one_who_asked(colour_paths):
    def run_out(image):
        raise MemoryError("no more")

    run_out.image_size = 4
    batches = read_batches(ImageSource.from_user(colour_paths), np.arange(7), run_out, n_jobs=2)
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
    colour_paths, monkeypatch, configured, n_jobs, expected
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda: 3)
    backend = RecordingBackend()
    backend.asked = []
    source = ImageSource.from_user(colour_paths)
    with joblib.parallel_config(backend=backend, **configured):
        list(read_batches(source, np.arange(7), TO_FOUR, batch_size=2, n_jobs=n_jobs))
    assert backend.asked == [expected]


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 8), (-1, 12)])
def test_number_of_threads_follows_the_cpus(colour_paths, monkeypatch, n_jobs, expected):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.setattr("joblib._parallel_backends.cpu_count", lambda: 12)
    asked = []
    configure = ThreadingBackend.configure

    def recording(backend, n_jobs=1, parallel=None, **options):
        asked.append(n_jobs)
        return configure(backend, n_jobs, parallel, **options)

    monkeypatch.setattr(ThreadingBackend, "configure", recording)
    list(read_batches(ImageSource.from_user(colour_paths), np.arange(7), TO_FOUR, n_jobs=n_jobs))
    assert asked == [expected]


def test_number_of_workers_may_be_configured_without_a_backend(colour_paths):
    threads = set()

    def noting(image):
        time.sleep(0.01)
        threads.add(threading.get_ident())
        return TO_FOUR(image)

    noting.image_size = 4
    for n_jobs in (1, 3):
        threads.clear()
        with joblib.parallel_config(n_jobs=n_jobs):
            list(read_batches(ImageSource.from_user(colour_paths), np.arange(7).repeat(5), noting))
        assert len(threads) == n_jobs


def test_processes_read_the_same_batches_when_configured(broken_colour_paths):
    source = ImageSource.from_user(broken_colour_paths)
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


def test_decoded_pixels_are_those_of_each_image(colour_paths):
    source = ImageSource.from_user(colour_paths)
    pixels = decode_pixels(source, TO_FOUR)
    np.testing.assert_array_equal(pixels, np.stack([TO_FOUR(image) for image in source]))
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("decode", [decode_pixels, decode_for_training])
def test_large_pixels_are_kept_in_a_file_that_goes_with_them(
    colour_paths, tmp_path, monkeypatch, decode
):
    source = ImageSource.from_user(colour_paths)
    expected = decode(source, TO_FOUR)
    folder = tmp_path / "pixels"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(decoding, "_MEMORY_LIMIT", 100)
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
    colour_paths = [tmp_path / "landscape.png", tmp_path / "portrait.png", tmp_path / "small.png"]
    for path, shape in zip(colour_paths, [(30, 60, 3), (50, 20, 3), (3, 3, 3)], strict=True):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    copies = decode_for_training(ImageSource.from_user(colour_paths), TO_FOUR)
    np.testing.assert_allclose(copies.aspect, [2, 0.4, 1])
    assert copies.aspect.dtype == np.float32
    assert copies.whole.shape == (3, 8, 8, 3)
    for row, path in enumerate(colour_paths):
        image = Image.open(path)
        np.testing.assert_array_equal(copies.pixels[row], TO_FOUR(image))
        whole = image.resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(copies.whole[row], np.asarray(whole))


def test_images_are_opened_once_for_both_copies(colour_paths, monkeypatch):
    opened = collections.Counter()
    open_image = Image.open

    def counting(path, **options):
        opened[path] += 1
        return open_image(path, **options)

    monkeypatch.setattr(Image, "open", counting)
    decode_for_training(ImageSource.from_user(colour_paths), TO_FOUR, n_jobs=2)
    assert opened == dict.fromkeys(colour_paths, 1)


def test_pixels_of_the_right_size_are_not_copied_for_training():
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    copies = decode_for_training(ImageSource.from_user(array), TO_FOUR)
    assert copies.pixels is array and copies.whole is array
    assert copies.aspect.tolist() == [1.0] * 5


@pytest.mark.parametrize("decode", [decode_pixels, decode_for_training])
def test_decoding_raises_at_an_unreadable_image(broken_colour_paths, decode):
    with pytest.raises(ImageReadError, match="image 1 "):
        decode(ImageSource.from_user(broken_colour_paths), TO_FOUR)


@pytest.mark.parametrize("decode", [decode_pixels, decode_for_training])
def test_decoding_keeps_to_the_limit_of_pixels(colour_paths, decode):
    with pytest.raises(ImageReadError, match="at most max_pixels=53 pixels, got 9 x 6 = 54"):
        decode(ImageSource.from_user(colour_paths).limited(53), TO_FOUR)


def test_no_workers_at_all_by_joblib_are_refused(colour_paths):
    source = ImageSource.from_user(colour_paths)
    message = r"expected joblib\.parallel_config with n_jobs of at least 1.*got 0"
    with joblib.parallel_config(n_jobs=0), pytest.raises(ValueError, match=message):
        decode_pixels(source, TO_FOUR)


def test_decoding_no_images_gives_none():
    source = ImageSource.from_user([])
    assert decode_pixels(source, TO_FOUR).shape == (0, 4, 4, 3)
    copies = decode_for_training(source, TO_FOUR)
    assert [len(array) for array in copies] == [0, 0, 0]
