"""Images and names become a ConceptSpace; nothing is encoded twice."""

import copy
import pickle
import sqlite3
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from joblib.parallel import ThreadingBackend
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from capkit import CLIPEncoder, ConceptSpace, MismatchDetector
from capkit.backbones import load_backbone
from capkit.baselines import ZeroShotClassifier
from capkit.decoding import decode_for_training, decode_pixels
from capkit.encoder import encode_texts
from capkit.exceptions import (
    BackboneMismatchError,
    CacheError,
    CacheWarning,
    ClassNamesError,
    ImageReadError,
    OutOfMemoryError,
    SkippedImagesWarning,
)
from capkit.feature_store import MemoryFeatureStore
from capkit.images import ImageSource

NAMES = ["cat", "dog", "tree"]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def fresh_memory(monkeypatch):
    """No test sees the features that another one has left in memory."""
    store = MemoryFeatureStore(2**24)
    monkeypatch.setattr("capkit.feature_store._process_store", lambda: store)


@pytest.fixture
def encoded(monkeypatch):
    """Numbers of images that the image tower was run on, one entry a batch."""
    batches = []
    original = torch.nn.Module.__call__

    def counting(module, *args, **kwargs):
        if type(module).__name__ == "VisionTransformer":
            batches.append(len(args[0]))
        return original(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", counting)
    return batches


@pytest.fixture
def encoder(random_backbone):
    return CLIPEncoder(random_backbone, class_names=NAMES, device="cpu", batch_size=3)


def files_of(images, folder):
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def break_files(paths):
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    paths[4].write_text("no image")
    paths[5].unlink()


class ImageDataset:
    def __init__(self, images):
        self.images = images
        self.n_read = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.n_read += 1
        return Image.fromarray(self.images[index]), "label"


# -- what comes out


def test_space_holds_what_the_backbone_gives(encoder, images, random_backbone):
    space = encoder.fit(images).transform(images)
    backbone = load_backbone(random_backbone, device="cpu")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert_allclose(space.image_features, backbone.encode_images(pixels), atol=1e-5)
    texts = [f"a photo of a {name}" for name in NAMES]
    assert_allclose(space.text_features, backbone.encode_texts(texts), atol=1e-5)
    assert isinstance(space, ConceptSpace)
    assert space.prompts == tuple(texts) and space.class_names == tuple(NAMES)
    assert space.logit_scale == pytest.approx(backbone.logit_scale)
    assert (space.backbone, space.backbone_id) == (backbone.name, backbone.identity)
    assert space.sample_indices is None
    assert_array_equal(np.asarray(space.images[3]), images[3])


def test_every_kind_of_input_gives_the_same_features(encoder, images, tmp_path):
    expected = encoder.fit(images).transform(images).image_features
    kinds = {
        "paths": files_of(images, tmp_path),
        "PIL": [Image.fromarray(image) for image in images],
        "list": list(images),
        "tensor": torch.from_numpy(images).permute(0, 3, 1, 2),
        "Dataset": ImageDataset(images),
        "read-only": np.lib.stride_tricks.as_strided(images, writeable=False),
    }
    for kind, given in kinds.items():
        features = encoder.transform(given).image_features
        assert_allclose(features, expected, atol=1e-5, err_msg=kind)


def test_images_of_any_size_are_resized_as_the_backbone_does(encoder, random_backbone):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 80, 3), dtype=np.uint8))
    backbone = load_backbone(random_backbone, device="cpu")
    pixels = torch.from_numpy(backbone.preprocessing(image).copy()).permute(2, 0, 1)[None]
    space = encoder.fit([image]).transform([image])
    assert_allclose(space.image_features, backbone.encode_images(pixels), atol=1e-5)


def test_images_are_read_by_the_backend_that_joblib_is_configured_with(encoder, images):
    class Recording(ThreadingBackend):
        asked = []

        def configure(self, n_jobs=1, parallel=None, **options):
            self.asked.append(n_jobs)
            return super().configure(n_jobs, parallel, **options)

    pictures = [Image.fromarray(image).resize((9, 9)) for image in images]
    with joblib.parallel_config(backend=Recording(), n_jobs=3):
        encoder.fit(pictures).transform(pictures)
        encoder.set_params(n_jobs=2).transform([picture.rotate(90) for picture in pictures])
    assert Recording.asked == [3, 2]


def test_order_subset_and_batch_size_do_not_matter(encoder, images):
    expected = encoder.fit(images).transform(images).image_features
    order = [5, 0, 3]
    for batch_size in (1, 2, 100):
        other = clone(encoder).set_params(batch_size=batch_size).fit(images)
        assert_allclose(other.transform(images[order]).image_features, expected[order], atol=1e-5)


def test_several_templates_are_averaged(encoder, images, random_backbone):
    templates = ["a photo of a {}", "a drawing of a {}"]
    encoder.set_params(template=templates).fit(images)
    backbone = load_backbone(random_backbone, device="cpu")
    each = [
        backbone.encode_texts([template.format(name) for name in NAMES]) for template in templates
    ]
    mean = (each[0] + each[1]) / 2
    expected = mean / mean.norm(dim=1, keepdim=True)
    assert_allclose(encoder.text_features_, expected, atol=1e-6)
    assert encoder.prompts_[1] == "a photo of a dog"


def test_class_name_may_hold_braces(encoder, images):
    encoder.fit(images[:5], class_names=None)
    named = clone(encoder).set_params(class_names=["{0}", "a {b}", "}{"]).fit(images)
    assert named.prompts_ == ("a photo of a {0}", "a photo of a a {b}", "a photo of a }{")


def test_template_that_cannot_be_written_is_refused_before_anything_is_loaded(images):
    encoder = CLIPEncoder("there/is no such backbone", class_names=NAMES)
    with pytest.raises(ValueError, match=r"UTF-8 can write, got 'a\\ud800 \{\}' as template 1"):
        encoder.set_params(template=["a {}", "a\ud800 {}"]).fit(images)


@pytest.mark.parametrize("template", ["a photo", "a {name}", "{} {", "{:>9}", [], ["{}", 3]])
def test_template_without_a_place_for_the_name_is_refused(encoder, images, template):
    with pytest.raises((ValueError, TypeError), match="template"):
        encoder.set_params(template=template).fit(images)


def test_class_names_at_fit(random_backbone, images):
    encoder = CLIPEncoder(random_backbone)
    assert encoder.fit(images, class_names=NAMES).class_names_ == tuple(NAMES)
    assert encoder.fit_transform(images, class_names=NAMES).class_names == tuple(NAMES)
    with pytest.raises(ClassNamesError, match="cross-validation"):
        encoder.fit(images[:3], class_names=NAMES)


# -- without class names


@pytest.fixture
def nameless(random_backbone):
    return CLIPEncoder(random_backbone, device="cpu", batch_size=3)


def test_a_stage_behind_it_says_what_it_lacks(nameless, images):
    with pytest.raises(TypeError, match="with class_names before it"):
        MismatchDetector().fit(nameless.fit_transform(images))


def test_without_class_names_features_are_an_array(nameless, encoder, images):
    features = nameless.fit_transform(images)
    assert type(features) is np.ndarray and features.dtype == np.float32
    assert_array_equal(features, encoder.fit_transform(images).image_features)
    assert nameless.class_names_ is nameless.prompts_ is nameless.text_features_ is None
    assert list(nameless.get_feature_names_out()[:2]) == ["clipencoder0", "clipencoder1"]
    assert len(nameless.get_feature_names_out()) == features.shape[1]
    assert_array_equal(pickle.loads(pickle.dumps(nameless)).transform(images), features)


def test_an_encoder_forgets_the_class_names_of_an_older_fit(encoder, images):
    encoder.fit(images)
    encoder.set_params(class_names=None).fit(images)
    assert type(encoder.transform(images)) is np.ndarray
    assert encoder.text_features_ is None


def test_a_probe_behind_it_is_searched_by_labels(nameless, images, encoded):
    images, y = np.tile(images, (4, 1, 1, 1)), np.tile([0, 0, 0, 1, 1, 2, 2], 4)
    probe = make_pipeline(nameless, LogisticRegression(C=1e4))
    search = GridSearchCV(probe, {"logisticregression__C": [1e-6, 1e4]}, cv=2).fit(images, y)
    assert search.best_params_ == {"logisticregression__C": 1e4}
    assert search.score(images, y) == 1
    assert sum(encoded) == 7


def test_tables_are_not_made_of_features_either(nameless, images):
    probe = make_pipeline(nameless, StandardScaler()).set_output(transform="pandas")
    assert type(nameless.fit_transform(images)) is np.ndarray
    assert probe.fit_transform(images).shape == (7, nameless.fit(images).n_features_out_)


def test_nothing_is_skipped_without_class_names(nameless, images, tmp_path):
    paths = files_of(images, tmp_path)
    break_files(paths)
    with pytest.raises(ImageReadError, match=r"image [145] "):
        nameless.fit(paths).transform(paths)
    nameless.set_params(on_error="skip")
    for method in (nameless.fit, nameless.transform):
        with pytest.raises(ValueError, match=r"cannot say which\. Pass class_names, for a"):
            method(paths)


def test_a_classifier_behind_it_says_that_class_names_are_missing(nameless, images):
    features = nameless.fit_transform(images)
    with pytest.raises(ValueError, match=r"looks like features.*pass it class_names"):
        ZeroShotClassifier(class_names=NAMES).fit(features)


def test_wrong_images_are_refused_before_anything_is_loaded(images):
    encoder = CLIPEncoder("there/is no such backbone", class_names=NAMES)
    with pytest.raises(TypeError, match="expected images as a sequence"):
        encoder.fit(3)
    with pytest.raises(ValueError, match="expected at least 1 image"):
        encoder.fit([])


def test_transform_before_fit_is_refused(encoder, images):
    with pytest.raises(NotFittedError):
        encoder.transform(images)
    assert not hasattr(encoder, "backbone_")


# -- nothing is encoded twice


def test_second_transform_encodes_nothing(encoder, images, encoded, tmp_path):
    for cache_dir in (None, tmp_path):
        encoder.set_params(cache_dir=cache_dir).fit(images)
        encoded.clear()
        first = encoder.transform(images)
        assert encoded == [3, 3, 1]
        second = clone(encoder).fit(images).transform(images)
        assert encoded == [3, 3, 1]
        assert_array_equal(first.image_features, second.image_features)


def test_ten_more_images_cost_ten(encoder, images, encoded, tmp_path):
    paths = files_of(images, tmp_path)
    encoder.set_params(cache_dir=tmp_path / "cache").fit(paths)
    encoder.transform(paths[:4])
    encoded.clear()
    space = encoder.transform(paths)
    assert encoded == [3]
    expected = encoder.transform(images).image_features
    assert_allclose(space.image_features, expected, atol=1e-5)


def test_changed_file_is_encoded_again(encoder, images, encoded, tmp_path):
    paths = files_of(images, tmp_path)
    before = encoder.fit(paths).transform(paths).image_features
    Image.fromarray(255 - images[2]).save(paths[2])
    encoded.clear()
    after = encoder.transform(paths).image_features
    assert encoded == [1]
    changed = np.abs(after - before).max(axis=1) > 0
    assert_array_equal(np.flatnonzero(changed), [2])


def test_repeated_images_are_encoded_once(encoder, images, encoded):
    encoder.fit(images)
    encoded.clear()
    features = encoder.transform(images[[0, 1, 0, 0, 1]]).image_features
    assert encoded == [2]
    assert_array_equal(features[[0, 1, 0, 0, 1]], features)


def test_dataset_is_read_once_and_encoded_once(encoder, images, encoded):
    dataset = ImageDataset(images)
    encoder.fit(dataset)
    encoded.clear()
    first = encoder.transform(dataset).image_features
    assert dataset.n_read == len(images) and sum(encoded) == len(images)
    encoded.clear()
    assert_array_equal(encoder.transform(dataset).image_features, first)
    assert encoded == []


def test_another_backbone_or_preprocessing_has_its_own_features(
    encoder, images, encoded, tmp_path, random_backbone
):
    encoder.set_params(cache_dir=tmp_path / "cache").fit(images).transform(images)
    original, other_path = Path(random_backbone), tmp_path / "other.pt"
    config = original.with_suffix(".json").read_text().replace("0.5", "0.4")
    other_path.with_suffix(".json").write_text(config)
    other_path.write_bytes(original.read_bytes())
    encoded.clear()
    other = clone(encoder).set_params(backbone=other_path, cache_dir=tmp_path / "cache")
    other.fit(images).transform(images)
    assert sum(encoded) == len(images)


def test_texts_are_kept_with_their_template(encoder, images, monkeypatch, tmp_path):
    encoder.set_params(cache_dir=tmp_path).fit(images)
    asked = []
    backbone_type = type(encoder.backbone_)
    original = backbone_type.encode_texts

    def counting(self, texts, **kwargs):
        asked.extend(texts)
        return original(self, texts, **kwargs)

    monkeypatch.setattr(backbone_type, "encode_texts", counting)
    clone(encoder).fit(images)
    assert asked == []
    clone(encoder).set_params(template="a drawing of a {}", class_names=["cat", "sun"]).fit(images)
    assert asked == ["a drawing of a cat", "a drawing of a sun"]


def test_repeated_texts_are_encoded_once(encoder, images):
    backbone = encoder.fit(images).backbone_
    store = MemoryFeatureStore(2**20)
    features = encode_texts(backbone, ["cat", "dog", "cat"], store)
    assert_array_equal(features[0], features[2])
    assert_allclose(features[:2], backbone.encode_texts(["cat", "dog"]), atol=1e-6)


def test_cross_validation_encodes_each_image_once(encoder, images, encoded):
    y = [0, 1, 0, 1, 0, 1, 0]
    encoder.fit(images)
    encoded.clear()
    pipeline = make_pipeline(encoder, LogisticRegression())
    cross_val_score(pipeline, images, y, cv=3)
    assert sum(encoded) == len(images)


def test_work_is_kept_up_to_an_unreadable_image(encoder, images, encoded, tmp_path):
    paths = files_of(images, tmp_path)
    paths[6].write_text("no image")
    encoder.set_params(cache_dir=tmp_path / "cache").fit(paths)
    encoded.clear()
    with pytest.raises(ImageReadError, match="image 6 "):
        encoder.transform(paths)
    encoder.transform(paths[:6])
    assert sum(encoded) == 6


def test_damaged_feature_is_encoded_again_with_one_warning(encoder, images, encoded, tmp_path):
    encoder.set_params(cache_dir=tmp_path).fit(images)
    expected = encoder.transform(images).image_features
    with sqlite3.connect(tmp_path / "features.sqlite") as connection:
        connection.execute("UPDATE features SET value = zeroblob(length(value)) WHERE rowid > 3")
    encoded.clear()
    with pytest.warns(CacheWarning, match=r"7 of the features .*encoded again") as caught:
        again = encoder.transform(images).image_features
    assert len(caught) == 1 and sum(encoded) == 7
    assert_allclose(again, expected, atol=1e-5)
    encoder.transform(images)
    assert sum(encoded) == 7


def test_home_folder_may_be_written_as_a_tilde(encoder, images, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    encoder.set_params(cache_dir="~/cache").fit(images)
    assert (tmp_path / "home" / "cache" / "features.sqlite").exists()
    assert list((tmp_path / "here").iterdir()) == []


def test_damaged_cache_is_an_error_that_names_the_file(encoder, images, tmp_path):
    (tmp_path / "features.sqlite").write_bytes(b"damage" * 1000)
    with pytest.raises(CacheError, match=r"Delete .*features\.sqlite"):
        encoder.set_params(cache_dir=tmp_path).fit(images)


# -- images that cannot be read


def test_unreadable_image_is_named(encoder, images, tmp_path):
    paths = files_of(images, tmp_path)
    break_files(paths)
    encoder.fit(paths)
    with pytest.raises(ImageReadError, match=r"image 5 \(.*5\.png\).*No such file"):
        encoder.transform(paths)  # missing files are found before any is decoded
    with pytest.raises(ImageReadError, match=r"image 1 \(.*1\.png\)"):
        encoder.transform(paths[:5])


def test_skipped_images_are_listed_and_have_no_row(encoder, images, tmp_path):
    expected = encoder.fit(images).transform(images).image_features
    paths = files_of(images, tmp_path)
    break_files(paths)
    encoder.set_params(on_error="skip")
    with pytest.warns(SkippedImagesWarning) as caught:
        space = encoder.transform(paths)
    message = str(caught[0].message)
    assert message.startswith("3 of 7 images")
    assert all(f"image {number} ({paths[number]}): " in message for number in (1, 4, 5))
    assert_array_equal(space.sample_indices, [0, 2, 3, 6])
    assert_allclose(space.image_features, expected[[0, 2, 3, 6]], atol=1e-5)
    assert_array_equal(np.asarray(space.images[1]), images[2])


def test_warning_about_many_images_still_lists_all(encoder, images, tmp_path):
    paths = [tmp_path / f"missing {number}.png" for number in range(30)]
    paths += files_of(images[:1], tmp_path)
    encoder.set_params(on_error="skip").fit(paths)
    with pytest.warns(SkippedImagesWarning) as caught:
        encoder.transform(paths)
    message = str(caught[0].message)
    assert "image 19 (" in message and "image 20 (" not in message
    assert message.endswith("and images 20, 21, 22, 23, 24, 25, 26, 27, 28, 29")


def test_repeated_unreadable_image_is_skipped_each_time(encoder, images, tmp_path):
    paths = files_of(images, tmp_path)
    break_files(paths)
    encoder.set_params(on_error="skip").fit(paths)
    with pytest.warns(SkippedImagesWarning) as caught:
        space = encoder.transform([paths[4], paths[0], paths[4]])
    assert_array_equal(space.sample_indices, [1])
    assert "image 0 (" in str(caught[0].message) and "image 2 (" in str(caught[0].message)


def test_no_readable_image_is_an_error_even_when_skipping(encoder, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    encoder.set_params(on_error="skip").fit(paths)
    with pytest.raises(ImageReadError, match="image 0 "):
        encoder.transform(paths)


# -- what is not read


def test_image_of_too_many_pixels_is_named_or_skipped(encoder, images, tmp_path):
    paths = files_of(images, tmp_path)
    Image.new("RGB", (50, 30)).save(paths[2])
    encoder.set_params(max_pixels=1024).fit(paths)
    with pytest.raises(ImageReadError, match=r"image 2 .*max_pixels=1024 .*50 x 30 = 1500"):
        encoder.transform(paths)
    with pytest.warns(SkippedImagesWarning, match="max_pixels=1024"):
        space = encoder.set_params(on_error="skip").transform(paths)
    assert_array_equal(space.sample_indices, [0, 1, 3, 4, 5, 6])
    assert len(encoder.set_params(max_pixels=None).transform(paths)) == 7


def test_limit_reaches_what_training_and_prediction_read(encoder, images, tmp_path):
    paths = files_of(images, tmp_path)
    encoder.set_params(max_pixels=1024)
    space = encoder.fit(paths).transform(paths)
    classifier = ZeroShotClassifier(backbone=encoder.backbone, class_names=NAMES, encoder=encoder)
    classifier.set_params(encoder=clone(encoder).set_params(class_names=None)).fit(paths)
    Image.new("RGB", (50, 30)).save(paths[2])
    preprocessing = encoder.backbone_.preprocessing
    for read in (
        lambda: decode_for_training(space.images, preprocessing),
        lambda: decode_pixels(space.images, preprocessing),
        lambda: classifier.predict(paths),
    ):
        with pytest.raises(ImageReadError, match=r"image 2 .*max_pixels=1024 .*50 x 30 = 1500"):
            read()


def test_image_without_pixels_is_named_or_skipped(encoder, images):
    given = [*images[:2], Image.new("RGB", (0, 5)), images[3], np.zeros((0, 5, 3), np.uint8)]
    encoder.fit(given)
    with pytest.raises(ImageReadError, match=r"image 2 .*height of 5 and a width of 0"):
        encoder.transform(given)
    with pytest.warns(SkippedImagesWarning, match=r"image 4 .*height and width are at least 1"):
        space = encoder.set_params(on_error="skip").transform(given)
    assert_array_equal(space.sample_indices, [0, 1, 3])


def test_opened_images_are_encoded_once_and_stay_unread(encoder, images, encoded, tmp_path):
    paths = files_of(images, tmp_path)
    opened = [Image.open(path) for path in paths]
    encoder.fit(opened)
    encoded.clear()
    features = encoder.transform(opened).image_features
    assert not any(image.fp is None or image.fp.closed for image in opened)
    assert_array_equal(encoder.transform(opened).image_features, features)
    assert_array_equal(encoder.transform(paths).image_features, features)
    assert sum(encoded) == len(images)


# -- a scikit-learn citizen


def test_copies_hold_no_model_and_give_the_same(encoder, images):
    expected = encoder.fit(images).transform(images).image_features
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 5000
    for other in (pickle.loads(pickled), copy.deepcopy(encoder)):
        assert_array_equal(other.transform(images).image_features, expected)
        assert other.backbone_ is encoder.backbone_


def test_changed_checkpoint_is_refused_by_a_fitted_encoder(images, tmp_path, random_backbone):
    path = tmp_path / "model.pt"
    weights = torch.load(random_backbone)
    torch.save(weights, path)
    config = Path(random_backbone).with_suffix(".json").read_text()
    path.with_suffix(".json").write_text(config)
    encoder = CLIPEncoder(path, class_names=NAMES).fit(images)
    weights["ln_final.bias"] += 1
    torch.save(weights, path)
    expected = (
        rf"CLIPEncoder expected .* fingerprint {encoder.backbone_id_[:12]}\.\.\., got .*\.pt' "
    )
    with pytest.raises(BackboneMismatchError, match=expected):
        encoder.transform(images)


def test_transform_changes_nothing_on_the_encoder(encoder, images, tmp_path):
    encoder.fit(images)
    before = joblib.hash(encoder.__dict__)
    encoder.transform(images)
    assert joblib.hash(encoder.__dict__) == before


def test_space_survives_pickling_and_joblib_memory(encoder, images, tmp_path):
    space = encoder.fit(images).transform(images)
    again = pickle.loads(pickle.dumps(space[[2, 0]]))
    assert_array_equal(np.asarray(again.images[0]), images[2])
    cached = joblib.Memory(tmp_path, verbose=0).cache(lambda value: value)
    assert_array_equal(cached(space).image_features, space.image_features)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"batch_size": 0}, "'batch_size' parameter of CLIPEncoder must be an int"),
        ({"on_error": "ignore"}, "'on_error' parameter"),
        ({"backbone": 3}, "'backbone' parameter"),
        ({"cache_dir": 3}, "'cache_dir' parameter"),
        ({"n_jobs": 0}, "'n_jobs' parameter"),
        ({"max_pixels": 0}, "'max_pixels' parameter"),
        ({"max_pixels": 1e6}, "'max_pixels' parameter"),
    ],
)
def test_parameters_are_validated_at_fit(encoder, images, parameters, match):
    with pytest.raises(ValueError, match=match):
        encoder.set_params(**parameters).fit(images)


def test_progress_bar_is_shown_on_request_only(encoder, images, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.fit(images).transform(images)
    assert capsys.readouterr() == ("", "")
    encoder.set_params(verbose=1).transform(images[::-1] // 2)
    out, err = capsys.readouterr()
    assert out == "" and "encoding" in err and "7/7" in err


def test_out_of_memory_says_what_to_lower(encoder, images, monkeypatch):
    encoder.fit(images)

    def fail(self, pixels):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(type(encoder.backbone_), "encode_images", fail)
    with pytest.raises(
        OutOfMemoryError, match=r"batch of 3 images of 32 x 32.*batch_size below 3"
    ):
        encoder.transform(images)


def test_other_errors_of_the_model_are_not_taken_for_memory(encoder, images, monkeypatch):
    encoder.fit(images)

    def fail(self, pixels):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(type(encoder.backbone_), "encode_images", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        encoder.transform(images)


def test_source_of_a_space_can_be_encoded_again(encoder, images):
    space = encoder.fit(images).transform(images)
    assert isinstance(space.images, ImageSource)
    again = encoder.transform(space[2:5].images)
    assert_array_equal(again.image_features, space.image_features[2:5])
