"""Strong views of stored pixels."""

import math

import pytest
import torch
from torchvision.transforms import RandomResizedCrop, v2

from capkit.training.views import STRONG_VIEWS, make_strong_view


@pytest.fixture
def ramp():
    """Images whose red channel is the column and whose green channel is the row, times 4."""
    steps = torch.arange(64, dtype=torch.uint8) * 4
    red, green = steps.expand(64, 64), steps[:, None].expand(64, 64)
    image = torch.stack([red, green, torch.full_like(red, 7)])
    return image.expand(512, 3, 64, 64)


def corners(view):
    """Columns and rows (B, 2) of a ramp's view next to its left, right, top and bottom edge."""
    view = view.float() / 4
    middle = slice(31, 33)
    left, right = view[:, 0, middle, 0].mean(1), view[:, 0, middle, -1].mean(1)
    top, bottom = view[:, 1, 0, middle].mean(1), view[:, 1, -1, middle].mean(1)
    return left, right, top, bottom


@pytest.mark.parametrize("name", [*STRONG_VIEWS, v2.RandomHorizontalFlip()])
def test_views_are_pixels_of_the_same_shape_and_follow_torchs_seed(name, ramp):
    view = make_strong_view(name)
    images = ramp[:8]
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(view(images))
    assert results[0].shape == images.shape
    assert results[0].dtype == torch.uint8
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_crops_have_torchvisions_distribution(ramp):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("crop")(ramp))
    # from the first to the last pixel's centre a view spans 63/64 of the crop
    width, height = (right - left) / 63, (bottom - top) / 63
    torch.manual_seed(0)
    arguments = ([0.08, 1.0], [3 / 4, 4 / 3])
    parts = [RandomResizedCrop.get_params(ramp[0], *arguments)[2:] for _ in range(len(ramp))]
    expected_height, expected_width = torch.tensor(parts).T / 64
    quantiles = torch.linspace(0.05, 0.95, 10)
    for given, expected in ((width, expected_width), (height, expected_height)):
        difference = given.quantile(quantiles) - expected.quantile(quantiles)
        assert difference.abs().max() < 0.06
    ratio = width / height
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4


def test_a_crop_lies_inside_the_image_and_everywhere_in_it(ramp):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("crop")(ramp))
    assert (left <= right).all() and (top <= bottom).all()
    center = (left + right) / 2
    assert center.min() < 20 and center.max() > 43
    assert abs(center.mean() - 31.5) < 1.5


def test_half_of_the_views_are_flipped_and_none_without_the_flip(ramp):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("crop_flip")(ramp))
    assert 0.4 < (left > right).float().mean() < 0.6
    assert (top < bottom).all()
    left, right, _, _ = corners(make_strong_view("crop")(ramp))
    assert (left < right).all()


def test_a_crop_is_an_enlarged_part_of_the_image(ramp):
    """Inside, a bilinear enlargement of a ramp is a ramp again."""
    torch.manual_seed(0)
    view = make_strong_view("crop")(ramp[:16])[:, 0].float()
    steps = (view[:, :, 1:] - view[:, :, :-1])[:, :, 1:-1]
    spread = steps.amax(dim=(1, 2)) - steps.amin(dim=(1, 2))
    assert (spread <= 2).all()  # rounding to whole grey levels
    assert (view.std(dim=1) < 1).all()  # rows are alike


def test_affine_turns_shifts_and_scales_a_little(ramp):
    torch.manual_seed(0)
    view = make_strong_view("affine")(ramp)[:, :2, 16:48, 16:48].float() / 4
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


def test_affine_does_not_mirror(ramp):
    torch.manual_seed(0)
    left, right, top, bottom = corners(make_strong_view("affine")(ramp))
    assert (left < right).all() and (top < bottom).all()


def test_transform_is_applied_to_each_image_by_itself(ramp):
    torch.manual_seed(0)
    flipped = make_strong_view(v2.RandomHorizontalFlip())(ramp[:64])
    left, right, _, _ = corners(flipped)
    assert 0 < (left > right).sum() < 64


def test_torchvisions_randaugment_works(ramp):
    view = make_strong_view(v2.Compose([v2.RandAugment(), v2.RandomResizedCrop(64)]))
    assert view(ramp[:2]).shape == (2, 3, 64, 64)


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'affine', 'crop', 'crop_flip'.*got 'flip'"):
        make_strong_view("flip")


def test_neither_name_nor_transform_is_refused():
    with pytest.raises(TypeError, match=r"callable from a uint8 tensor.*got int"):
        make_strong_view(3)


@pytest.mark.parametrize(
    ("transform", "given"),
    [
        (v2.ToDtype(torch.float32), r"\(3, 64, 64\) torch.float32"),
        (v2.Resize((32, 32)), r"\(3, 32, 32\) torch.uint8"),
        (lambda image: image.numpy(), "ndarray"),
    ],
)
def test_transform_that_gives_something_else_is_refused(transform, given, ramp):
    with pytest.raises(ValueError, match=f"{given}.*the backbone normalises by itself"):
        make_strong_view(transform)(ramp[:1])
