import os

import numpy as np
import pytest
from photo_folders import NAMES, write_class_folders

from capkit import CAPClassifier
from capkit.datasets import load_image_folder
from capkit.exceptions import ClassNamesError
from capkit.tuning import AdapterTuning


@pytest.fixture
def root(tmp_path):
    for name in ("wolf/1.jpg", "red_fox/b/2.JPEG", "red_fox/1.png", "loose.tif", "wolf/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_name_the_classes_of_all_images_in_and_below_them(root):
    photos = load_image_folder(root)
    assert photos.class_names == photos.target_names == ["red fox", "wolf"]
    relative = [os.path.relpath(path, root) for path in photos.paths]
    labels = dict(zip(relative, photos.target.tolist(), strict=True))
    assert labels == {
        "loose.tif": -1,
        "red_fox/1.png": 0,
        "red_fox/b/2.JPEG": 0,
        "wolf/1.jpg": 1,
    }
    assert photos.target.dtype == np.int64
    assert all(os.path.isabs(path) for path in photos.paths)
    assert "4 images" in photos.DESCR
    assert "3 of them are labeled as one of 2 classes" in photos.DESCR


def test_given_names_set_the_order_and_may_have_no_folder(root):
    photos = load_image_folder(root, class_names=["wolf", "badger", "red fox"])
    assert photos.class_names == ["wolf", "badger", "red fox"]
    assert photos.target.tolist() == [-1, 2, 2, 0]


def test_a_heap_has_no_labels_whatever_its_folders_are_called(root):
    photos = load_image_folder(root, class_names=["deer", "boar"], labeled=False)
    assert photos.target.tolist() == [-1, -1, -1, -1]
    assert photos.class_names == ["deer", "boar"]
    assert load_image_folder(root, labeled=False).class_names == []


def test_images_without_folders_are_a_heap(tmp_path):
    (tmp_path / "1.jpg").touch()
    photos = load_image_folder(tmp_path)
    assert photos.class_names == []
    assert photos.target.tolist() == [-1]


def test_a_folder_that_is_no_class_is_named(root):
    with pytest.raises(ClassNamesError, match=r"the folder 'red_fox' is no class.*such as 'wolf'"):
        load_image_folder(root, class_names=["wolf", "fox"])


def test_folders_that_differ_by_underscores_only_are_refused(root):
    (root / "red fox").mkdir()
    (root / "red fox" / "1.jpg").touch()
    with pytest.raises(ClassNamesError, match="two folders have the same name"):
        load_image_folder(root)


def test_one_folder_is_not_two_classes(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "1.jpg").touch()
    with pytest.raises(ClassNamesError):
        load_image_folder(tmp_path)


def test_what_it_gives_can_be_fitted_with_labels(tmp_path):
    write_class_folders(tmp_path)
    photos = load_image_folder(tmp_path)
    assert sorted(photos.class_names) == sorted(f"digit {name}" for name in NAMES)
    model = CAPClassifier(
        paradigm="ssl", backbone="glyph", tuning=AdapterTuning(epochs=1, steps_per_epoch=2)
    )
    photos.target[::2] = -1
    model.fit(photos.paths, photos.target, class_names=photos.class_names)
    assert set(model.predict(photos.paths)) <= set(range(len(NAMES)))
