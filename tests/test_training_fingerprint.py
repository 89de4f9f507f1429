"""What a training depends on, as two processes can compare it."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import Compose, RandomResizedCrop, v2

from capkit import MarginCalibrator
from capkit.training.fingerprint import (
    as_fingerprint,
    differences,
    digest,
    digest_of,
    plain,
    sketch,
    sketch_of_gaussians,
)


class View:
    """A view as a user may write one."""

    def __init__(self, size, then=None):
        self.size, self.then = size, then
        self._memory = object()

    def __call__(self, image):
        return image

    def crop(self, image):
        return image


def add_noise(image, scale=0.5):
    return image + scale * torch.randn_like(image)


def scaled(scale):
    def scale_image(image):
        return scale * image

    return scale_image


def views(scale=0.5, size=32):
    """One of each kind."""
    return {
        "function": partial(add_noise, scale=scale).func,
        "lambda": lambda image: image * 0.5,
        "closure": scaled(scale),
        "partial": partial(add_noise, scale=scale),
        "object": View(size, then=scaled(scale)),
        "method": View(size).crop,
        "callable in a list": [View(size)],
        "torchvision": RandomResizedCrop(size),
        "torchvision's own composition": Compose([RandomResizedCrop(size), v2.Lambda(add_noise)]),
        "torch": torch.nn.Sequential(torch.nn.Identity(), RandomResizedCrop(size)),
        "random": np.random.default_rng(0),
        "set": {"b", "a", View},
    }


def test_views_that_are_made_anew_are_the_same():
    first, padding, second = views(), [object() for _ in range(99)], views()
    assert padding and plain(first) == plain(second)
    assert "0x" not in json.dumps(plain(first))


@pytest.mark.slow
def test_another_process_says_the_same():
    script = (
        "import json, sys, test_training_fingerprint as here\n"
        "padding = [object() for _ in range(1000)]\n"  # other addresses
        "json.dump(here.plain(here.views()), sys.stdout)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        cwd=__file__.rpartition("/")[0],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
    ).stdout
    assert json.loads(said) == json.loads(json.dumps(plain(views())))


@pytest.mark.parametrize(
    "kind",
    [
        "closure",
        "partial",
        "object",
        "method",
        "callable in a list",
        "torchvision",
        "torchvision's own composition",
        "torch",
    ],
)
def test_what_a_view_has_been_given_makes_another_one(kind):
    assert plain(views()[kind]) != plain(views(scale=0.25, size=16)[kind])


def test_two_lambdas_are_two_views():
    one, two = (lambda image: image * 0.5), (lambda image: image * 0.25)
    assert one.__qualname__ == two.__qualname__
    assert plain(one) != plain(two)


def test_an_object_that_refers_to_itself_comes_to_an_end():
    view = View(3)
    view.then = view
    assert plain(view) == plain(view)


def test_plain_values_stay_and_scalars_of_numpy_become_python_s():
    assert plain({"k": np.int64(3)}) == {"k": 3}
    assert type(plain(np.int64(3))) is int
    assert plain(np.array([[0.5]])) == [[0.5]]
    assert plain(None) is None


def test_estimators_are_their_parameters():
    said = plain(MarginCalibrator(m=3.0))
    assert said["object"] == "capkit.margins.MarginCalibrator"
    assert said["m"] == 3.0


def test_digest_tells_arrays_apart():
    array = np.arange(6.0).reshape(2, 3)
    assert digest(array) == digest(np.asfortranarray(array))
    assert digest(array) != digest(array[::-1])


def test_digest_of_plain_values_does_not_depend_on_their_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_sketch_is_the_product_with_two_fixed_vectors():
    directions = sketch(np.eye(4))
    rows = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_allclose(sketch(rows), rows @ directions.numpy(), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["unit rows", "long rows"])
def test_sketches_are_compared_up_to_rounding(scale):
    rows = scale * np.random.default_rng(0).standard_normal((50, 8))
    there = {"images": sketch(rows), "seed": 0}
    assert differences(there, there | {"images": sketch(rows * (1 + 1e-6))}) == {}
    other = rows.copy()
    other[[3, 9]] += 0.1 * scale
    said = differences(there, {"images": sketch(other), "seed": 1})
    assert said == {"images": "2 of 50 are others", "seed": "0 in the checkpoint, 1 now"}


def test_sketches_of_other_numbers_of_rows_and_of_nothing_differ():
    two, three = sketch(np.eye(3)[:2]), sketch(np.eye(3))
    assert differences({"x": two}, {"x": three}) == {"x": "2 in the checkpoint, 3 now"}
    assert differences({}, {"x": three}) == {"x": "none in the checkpoint, some now"}
    assert differences({"x": two}, {"x": None}) == {"x": "some in the checkpoint, none now"}


def test_gaussians_are_the_same_however_their_space_is_turned():
    random = np.random.default_rng(0)
    means, turn = random.standard_normal((5, 8)), np.linalg.qr(random.standard_normal((8, 8)))[0]
    there = {"Gaussians": sketch_of_gaussians(means)}
    assert differences(there, {"Gaussians": sketch_of_gaussians(means @ turn)}) == {}
    assert differences(there, {"Gaussians": sketch_of_gaussians(means * 1.1)})


def test_as_fingerprint_leaves_sketches_as_they_are():
    images = sketch(np.eye(3))
    made = as_fingerprint({"images": images, "tau": np.float64(0.5)})
    assert made["images"] is images and made["tau"] == 0.5
