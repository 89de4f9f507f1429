"""The embedded data sets and the files that capkit ships."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from capkit.datasets import load_digits, load_handwriting

LOADERS = [load_digits, load_handwriting]
FAMILIES_FILE = Path(__file__).parents[1] / "benchmarks" / "glyph" / "families.json"


@pytest.fixture(params=LOADERS, ids=["digits", "handwriting"])
def load(request):
    return request.param


def test_bunch_is_consistent(load):
    data = load(split="all")
    n_images = len(data.images)
    assert data.images.shape == (n_images, 32, 32, 3)
    assert data.images.dtype == np.uint8
    assert data.target.dtype == np.int64
    assert data.target.shape == data.sources.shape == (n_images,)
    assert set(data.target) == set(range(len(data.class_names)))
    assert data.target_names == data.class_names
    assert len(set(data.sources)) == n_images
    assert f"{n_images:,}" in data.DESCR


def test_split_parts_are_disjoint_and_complete(load):
    parts = {split: load(split=split).sources for split in ("train", "test", "all")}
    assert not set(parts["train"]) & set(parts["test"])
    assert set(parts["train"]) | set(parts["test"]) == set(parts["all"])


def test_loading_twice_gives_the_same(load):
    first, second = load(imbalance_ratio=5), load(imbalance_ratio=5)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.sources, second.sources)


def test_paper_is_light_and_ink_is_dark(load):
    images = load(split="all").images
    assert np.median(images) == 255
    assert np.all(images.min(axis=(1, 2, 3)) < 128)


def test_channels_are_equal(load):
    images = load(split="test").images
    np.testing.assert_array_equal(images[..., 0], images[..., 1])
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_return_X_y_gives_images_and_target(load):
    images, target = load(split="test", return_X_y=True)
    data = load(split="test")
    np.testing.assert_array_equal(images, data.images)
    np.testing.assert_array_equal(target, data.target)


def test_descriptions_cover_every_class(load):
    data = load(split="test")
    assert set(data.descriptions) == set(data.class_names)
    for texts in data.descriptions.values():
        assert len(set(texts)) == len(texts) >= 4


def test_unknown_split_is_refused(load):
    with pytest.raises(ValueError, match="train, test, all, got 'validation'"):
        load(split="validation")


@pytest.mark.parametrize("ratio", [0.5, 0, -3, np.nan, np.inf])
def test_impossible_imbalance_ratio_is_refused(load, ratio):
    with pytest.raises(ValueError, match="imbalance_ratio is expected to be a finite number"):
        load(imbalance_ratio=ratio)


def test_class_sizes_fall_geometrically():
    target = load_handwriting(imbalance_ratio=10).target
    sizes = np.sort(np.bincount(target, minlength=62))[::-1]
    # 40 images a class: 40 * 10 ** (-k / 61) for k = 0, 30 and 61.
    assert sizes[0] == 40
    assert sizes[30] == 13
    assert sizes[61] == 4
    assert len(target) == sizes.sum()


def test_imbalance_ratio_of_one_makes_classes_equal():
    target = load_digits(imbalance_ratio=1).target
    # The smallest class of the train split has 116 images.
    assert np.bincount(target).tolist() == [116] * 10


def test_extreme_imbalance_leaves_every_class_an_image(load):
    data = load(imbalance_ratio=1e9)
    assert np.bincount(data.target, minlength=len(data.class_names)).min() == 1


def test_random_state_changes_which_classes_are_rare():
    sizes = [
        np.bincount(load_handwriting(imbalance_ratio=10, random_state=seed).target)
        for seed in (0, 1)
    ]
    assert sorted(sizes[0]) == sorted(sizes[1])
    assert sizes[0].tolist() != sizes[1].tolist()


def test_digits_are_scikit_learns():
    raw = sklearn_datasets.load_digits()
    data = load_digits(split="all")
    np.testing.assert_array_equal(data.target, raw.target)
    assert data.class_names[3] == "digit three"
    # 32 pixels hold 12 cells of 8/3 pixels; the digits' cells start at the third. The mean over
    # the 8 x 8 cells keeps the mean ink, which bicubic interpolation spreads but does not create.
    ink = 255.0 - data.images[..., 0]
    expected = raw.images.sum(axis=(1, 2)) * (255 / 16) * (8 / 3) ** 2
    np.testing.assert_allclose(ink.sum(axis=(1, 2)), expected, rtol=0.06)


def test_digits_split_is_stratified_one_to_two():
    n_test = np.bincount(load_digits(split="test").target)
    n_all = np.bincount(load_digits(split="all").target)
    np.testing.assert_array_equal(n_test, n_all // 3)


def test_handwriting_has_each_class_once_per_family():
    for split, n_families in (("train", 40), ("test", 16)):
        data = load_handwriting(split=split)
        pairs = set(zip(data.families, data.target, strict=True))
        assert len(set(data.families)) == n_families
        assert len(pairs) == len(data.target) == n_families * 62


def test_handwriting_class_names_are_unicode_names():
    names = load_handwriting(split="test").class_names
    assert [names[0], names[26], names[61]] == [
        "latin capital letter a",
        "latin small letter a",
        "digit nine",
    ]


def test_handwriting_families_are_not_those_of_training():
    families = json.loads(FAMILIES_FILE.read_text(encoding="utf-8"))
    roles = {family["name"]: family["role"] for family in families}
    assert len(roles) == len(families)
    for split in ("train", "test"):
        data = load_handwriting(split=split)
        assert {roles[name] for name in data.families} == {f"handwriting-{split}"}
        assert all(name in data.DESCR for name in set(data.families))


def test_pinned_families_are_open():
    licences = {f["licence"] for f in json.loads(FAMILIES_FILE.read_text(encoding="utf-8"))}
    assert licences == {"OFL-1.1", "Apache-2.0"}


@pytest.mark.parametrize("folder", ["datasets/data", "backbones/weights"])
def test_shipped_files_match_their_checksums(folder):
    root = resources.files("capkit").joinpath(folder)
    lines = root.joinpath("SHA256SUMS").read_text("utf-8").splitlines()
    assert lines
    for line in lines:
        checksum, name = line.split("  ")
        assert hashlib.sha256(root.joinpath(name).read_bytes()).hexdigest() == checksum, name


def test_shipped_files_are_small():
    root = Path(str(resources.files("capkit")))
    assert (root / "datasets/data/handwriting.npz").stat().st_size <= 4e6
    assert (root / "backbones/weights/glyph.safetensors").stat().st_size <= 8e6


def test_data_sets_load_without_torch():
    code = (
        "import sys; from capkit.datasets import load_handwriting; load_handwriting();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
