"""Strong views of pixels."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from capkit.decoding import TrainingPixels
from capkit.tuning.views import STRONG_VIEWS, as_tensor, make_strong_view


def ramp(size=64, step=4):
    """Image whose red channel is the column and whose green channel is the row, times `step`."""
    steps = np.arange(size, dtype=np.uint8) * step
    red, green = np.broadcast_to(steps, (size, size)), np.broadcast_to(steps[:, None], (size,) * 2)
    return np.stack([red, green, np.full((size, size), 7, dtype=np.uint8)], axis=2)


def many(image, n=512, whole=None, aspect=1.0):
    """Pixels of `n` equal images."""
    whole = image if whole is None else whole
    pixels, whole = (np.repeat(each[None], n, axis=0) for each in (image, whole))
    return TrainingPixels(pixels, whole, np.full(n, aspect, dtype=np.float32))


ALL = np.arange(512)


@pytest.fixture(scope="module")
def images():
    return many(ramp())


def corners(view):
    """Columns and rows (B, 2) of a ramp's view next to its left, right, top and bottom edge."""
    view = view.float() / 4
    middle = slice(31, 33)
    left, right = view[:, 0, middle, 0].mean(1), view[:, 0, middle, -1].mean(1)
    top, bottom = view[:, 1, 0, middle].mean(1), view[:, 1, -1, middle].mean(1)
    return left, right, top, bottom


@pytest.mark.parametrize("augment", [*STRONG_VIEWS, v2.RandomHorizontalFlip()])
def test_views_are_pixels_of_the_same_shape_and_follow_torchs_seed(augment, images):
    view = make_strong_view(augment, images)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(view(ALL[:8]))
    assert results[0].shape == (8, 3, 64, 64)
    assert results[0].dtype == torch.uint8
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("augment", STRONG_VIEWS)
def test_views_can_be_sent_to_another_process(augment, images):
    view = make_strong_view(augment, TrainingPixels(*(each[:3] for each in images)))
    torch.manual_seed(0)
    expected = view(ALL[:3])
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(view))(ALL[:3]), expected)


@pytest.mark.parametrize("augment", ["crop", "affine"])
def test_each_position_gets_the_view_of_its_own_image(augment):
    pixels = np.stack([np.full((8, 8, 3), 10 * index, dtype=np.uint8) for index in range(4)])
    view = make_strong_view(augment, TrainingPixels(pixels, pixels, np.ones(4)))
    assert view(np.array([3, 0, 3]))[:, 0, 4, 4].tolist() == [30, 0, 30]


# -- crops


def test_crops_have_torchvisions_distribution(images):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("crop", images)(ALL))
    # from the first to the last pixel's centre a view spans 63/64 of the crop
    width, height = (right - left) / 63, (bottom - top) / 63
    torch.manual_seed(0)
    image = torch.from_numpy(ramp()).permute(2, 0, 1)
    arguments = ([0.08, 1.0], [3 / 4, 4 / 3])
    parts = [RandomResizedCrop.get_params(image, *arguments)[2:] for _ in ALL]
    expected_height, expected_width = torch.tensor(parts).T / 64
    quantiles = torch.linspace(0.05, 0.95, 10)
    for given, expected in ((width, expected_width), (height, expected_height)):
        difference = given.quantile(quantiles) - expected.quantile(quantiles)
        assert difference.abs().max() < 0.06
    ratio = width / height
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4


def test_a_crop_lies_inside_the_image_and_everywhere_in_it(images):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("crop", images)(ALL))
    assert (left <= right).all() and (top <= bottom).all()
    center = (left + right) / 2
    assert center.min() < 20 and center.max() > 43
    assert abs(center.mean() - 31.5) < 1.5


def test_half_of_the_views_are_flipped_and_none_without_the_flip(images):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("crop_flip", images)(ALL))
    assert 0.4 < (left > right).float().mean() < 0.6
    assert (top < bottom).all()
    left, right, _, _ = corners(make_strong_view("crop", images)(ALL))
    assert (left < right).all()


def photo(width, height, factor=1):
    """A picture with a border that the model's own crop of the middle never shows."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(60, 200, (height, width, 3), dtype=np.uint8)
    pixels[:, : width // 8] = pixels[:, -width // 8 :] = (255, 0, 0)
    return Image.fromarray(pixels).resize(
        (width * factor, height * factor), Image.Resampling.BICUBIC
    )


def as_stored(image, size):
    """What is stored of a picture: the crop of the middle, and the whole, squashed."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side)).resize((size, size), 3)
    whole = image.resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
    return many(np.asarray(middle), 64, np.asarray(whole), image.width / image.height)


def test_crops_show_the_borders_that_the_weak_view_cuts_off():
    images = as_stored(photo(192, 64), 32)
    torch.manual_seed(0)
    views = make_strong_view("crop", images)(np.arange(64))
    is_red = (views[:, 0] > 240) & (views[:, 1] < 20)
    weak = torch.from_numpy(images.pixels[0])
    assert not ((weak[..., 0] > 240) & (weak[..., 1] < 20)).any()
    assert is_red.flatten(1).any(dim=1).float().mean() > 0.1


@pytest.mark.parametrize("aspect", [3.0, 1.0, 1 / 3])
def test_crops_of_squashed_images_have_the_shape_of_crops_of_the_image_itself(aspect):
    """A view of a ramp spans as many columns and rows as the crop that it was cut from."""
    images = many(ramp(128, step=2), whole=ramp(128, step=2), aspect=aspect)
    torch.manual_seed(0)
    view = make_strong_view("crop", images)(ALL).float()[:, :2] / 2 / 127
    width = (view[:, 0, 64, -1] - view[:, 0, 64, 0]) * aspect  # in heights of the image
    height = view[:, 1, -1, 64] - view[:, 1, 0, 64]
    whole = (height > 0.98) & (width > 0.98 * aspect)  # where no crop of this size fits
    ratio = (width / height)[~whole]
    assert ratio.min() > 0.7 and ratio.max() < 1.45
    assert abs(ratio.log().mean()) < 0.05


def test_a_crop_is_torchvisions_own_bicubic_one():
    images = as_stored(photo(64, 64), 32)
    torch.manual_seed(5)
    view = make_strong_view("crop", images)(np.array([0]))
    torch.manual_seed(5)
    crop = v2.RandomResizedCrop(
        32, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    expected = crop(torch.from_numpy(images.whole[0]).permute(2, 0, 1))
    assert torch.equal(view[0], expected)


def test_crops_of_large_photos_are_sharper_than_those_of_the_stored_crop():
    """A crop of a quarter of the area, from the whole image and from the weak view."""
    image = photo(64, 64, factor=4)
    images = as_stored(image, 64)

    def detail(pixels):
        return (pixels[..., 1:].float() - pixels[..., :-1].float()).abs().mean()

    truth = torch.from_numpy(np.array(image.crop((64, 64, 192, 192)).resize((64, 64), 3)))
    crop = {"top": 16, "left": 16, "height": 32, "width": 32, "size": [64, 64]}
    from_weak = v2.functional.resized_crop(
        torch.from_numpy(images.pixels[0]).permute(2, 0, 1), **crop, antialias=True
    )
    crop |= {"top": 32, "left": 32, "height": 64, "width": 64}
    from_whole = v2.functional.resized_crop(
        torch.from_numpy(images.whole[0]).permute(2, 0, 1), **crop, antialias=True
    )
    expected = detail(truth.permute(2, 0, 1))
    assert abs(detail(from_whole) - expected) < abs(detail(from_weak) - expected)


# -- affine


def test_affine_turns_shifts_and_scales_a_little(images):
    torch.manual_seed(0)
    view = make_strong_view("affine", images)(ALL)[:, :2, 16:48, 16:48].float() / 4
    across = (view[..., -1] - view[..., 0]).mean(dim=-1) / 31  # steps of column and row, per x
    angle = torch.atan2(across[:, 1], across[:, 0]).rad2deg()
    scale = across.norm(dim=1)
    shift = view.mean(dim=(2, 3)) - 31.5
    assert 12 < angle.max() < 16 and -16 < angle.min() < -12
    assert 1.15 < scale.max() < 1.25 and 0.75 < scale.min() < 0.85
    assert 5 < shift.max() < 7.5 and -7.5 < shift.min() < -5
    for values in (angle / 15, (scale - 1) / 0.2, shift[:, 0] / 6.4, shift[:, 1] / 6.4):
        assert abs(values.mean()) < 0.1
        assert abs(values.std() - 1 / math.sqrt(3)) < 0.06  # uniform


def test_affine_does_not_mirror(images):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("affine", images)(ALL))
    assert (left < right).all() and (top < bottom).all()


# -- any transform


def test_transform_is_applied_to_each_image_by_itself(images):
    torch.manual_seed(0)
    flipped = make_strong_view(v2.RandomHorizontalFlip(), images)(ALL[:64])
    left, right, _, _ = corners(flipped)
    assert 0 < (left > right).sum() < 64


def test_torchvisions_randaugment_works(images):
    view = make_strong_view(v2.Compose([v2.RandAugment(), v2.RandomResizedCrop(64)]), images)
    assert view(ALL[:2]).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("transform", "given"),
    [
        (v2.ToDtype(torch.float32), r"\(3, 64, 64\) torch.float32"),
        (v2.Resize((32, 32)), r"\(3, 32, 32\) torch.uint8"),
        (lambda image: image.numpy(), "ndarray"),
    ],
)
def test_transform_that_gives_something_else_is_refused(transform, given, images):
    with pytest.raises(ValueError, match=f"{given}.*the backbone normalises by itself"):
        make_strong_view(transform, images)(ALL[:1])


def test_memory_that_may_not_be_written_to_is_copied():
    array = np.arange(3)
    assert as_tensor(array).data_ptr() == array.ctypes.data
    array.flags.writeable = False
    assert as_tensor(array).data_ptr() != array.ctypes.data
