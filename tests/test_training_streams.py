"""Tests of the three streams."""

import numpy as np
import pytest
import torch

from capkit.training.self_training import SelfTrainingState
from capkit.training.streams import ThreeStreams, TrainingImages, epoch_positions


def make_streams(n=12, n_labeled=4, n_main=3, batch_size=4, steps=3, seed=0, epoch=0, **options):
    """Streams over images whose only feature is their index."""
    labels = np.full(n, -1)
    labels[:n_labeled] = np.arange(n_labeled) % 2
    main_labels = np.full(n, -1)
    main_labels[n_labeled : n_labeled + n_main] = [0, 1, 0][:n_main]
    state = SelfTrainingState.before_training(main_labels, n_classes=2)
    state.epoch = epoch
    images = TrainingImages(torch.arange(n, dtype=torch.float32)[:, None], labels)
    options.setdefault(
        "strong_view", lambda indices: images[indices] + torch.rand(len(indices), 1)
    )
    return ThreeStreams(
        images, batch_size=batch_size, steps=steps, seed=seed, state=state, **options
    )


def flat(batches):
    return [
        {**inputs, **{f"target {name}": value for name, value in targets.items()}}
        for inputs, targets in batches
    ]


def assert_equal_batches(first, second):
    first, second = flat(first), flat(second)
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


class TestEpochPositions:
    def test_every_item_comes_equally_often(self):
        positions = epoch_positions(6, steps=4, batch_size=3, key=(0,))
        assert positions.shape == (4, 3)
        assert np.bincount(positions.ravel()).tolist() == [2] * 6

    def test_a_short_stream_repeats_within_a_batch(self):
        positions = epoch_positions(2, steps=1, batch_size=6, key=(0,))
        assert np.bincount(positions[0]).tolist() == [3, 3]

    def test_key_decides(self):
        one, same, other = (epoch_positions(50, 2, 10, key) for key in ((1, 2), (1, 2), (1, 3)))
        assert (one == same).all()
        assert (one != other).any()


def test_streams_hold_their_own_images_and_targets():
    streams = make_streams()
    for inputs, targets in streams:
        assert set(inputs["labeled"].ravel().tolist()) <= {0, 1, 2, 3}
        assert set(inputs["main"].ravel().tolist()) <= {4, 5, 6}
        assert set(inputs["weak"].ravel().tolist()) <= set(range(4, 12))
        assert torch.equal(targets["labeled"], inputs["labeled"].ravel().long() % 2)
        assert torch.equal(targets["main"], (inputs["main"].ravel() == 5).long())
        for images in (inputs["unlabeled"], targets["unlabeled"]):
            assert images.dtype == torch.int64
            assert torch.equal(images, inputs["weak"].ravel().long())


def test_strong_view_is_of_the_weak_view_s_images():
    for inputs, _ in make_streams():
        assert torch.equal(inputs["strong"].floor(), inputs["weak"])
        assert (inputs["strong"] != inputs["weak"]).any()


@pytest.mark.parametrize("stream", ["labeled", "main"])
def test_a_stream_without_images_is_left_out(stream):
    inputs, targets = next(iter(make_streams(**{f"n_{stream}": 0})))
    assert set(inputs) == {"weak", "strong", "unlabeled", "labeled", "main"} - {stream}
    assert set(targets) == {"unlabeled", "labeled", "main"} - {stream}


def test_main_targets_are_what_the_state_gives():
    streams = make_streams()
    streams.state.main_targets = lambda indices: np.stack([indices, -indices], axis=1)
    inputs, targets = next(iter(streams))
    assert torch.equal(targets["main"][:, 0], inputs["main"].ravel().long())


def test_batches_are_a_function_of_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = list(make_streams(epoch=3))
    torch.manual_seed(2)
    assert_equal_batches(first, list(make_streams(epoch=3)))
    for other in (make_streams(epoch=4), make_streams(epoch=3, seed=1)):
        assert not torch.equal(first[0][0]["weak"], next(iter(other))[0]["weak"])


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(make_streams())
    assert torch.equal(torch.rand(3), expected)


def test_parts_of_all_processes_make_the_whole_batch():
    whole = flat(make_streams())
    parts = [flat(make_streams(rank=rank, n_processes=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        for name, value in batch.items():
            joined = torch.cat([part[step][name] for part in parts])
            assert torch.equal(joined, value), name


def test_pixels_come_with_the_channels_first():
    pixels = torch.randint(0, 256, (5, 8, 6, 3), dtype=torch.uint8)
    images = TrainingImages(pixels, np.full(5, -1))
    batch = images[np.array([3, 0])]
    assert batch.shape == (2, 3, 8, 6)
    assert torch.equal(batch[0, :, 2, 1], pixels[3, 2, 1])


@pytest.mark.parametrize("n", [1, 5])
def test_number_of_steps_does_not_depend_on_the_number_of_images(n):
    streams = make_streams(n=n + 7, steps=9)
    assert len(list(streams)) == len(streams) == 9


@pytest.mark.parametrize("views", [(), ("weak",)])
def test_a_view_that_is_not_asked_for_is_not_drawn_and_changes_no_other_stream(views):
    def refuse(indices):
        raise AssertionError("a strong view was drawn")

    everything, some = flat(make_streams()), flat(make_streams(views=views, strong_view=refuse))
    for expected, batch in zip(everything, some, strict=True):
        of_weak = {"weak", "unlabeled", "target unlabeled"}
        assert set(batch) == set(expected) - {"strong"} - (set() if views else of_weak)
        for name, value in batch.items():
            assert torch.equal(value, expected[name]), name
