"""Whatever was made with a backbone gets back that very one, or says which it expected."""

import dataclasses
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from capkit import CAPClassifier, CLIPEncoder, ConceptAligner
from capkit.backbones import load_backbone
from capkit.backbones.reloading import check_same_backbone, reload_backbone
from capkit.baselines import ZeroShotClassifier
from capkit.exceptions import BackboneError, BackboneMismatchError, BackboneNotFoundError
from capkit.space import MismatchResult
from capkit.tuning import AdapterTuning, PromptTuning

NAMES = ["bar", "cross", "ring"]
ONE, TWO = "0123456789ab" + 52 * "0", "ba9876543210" + 52 * "f"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def checkpoint(random_backbone, tmp_path):
    """A copy of the random backbone's files, to be changed."""
    path = tmp_path / "model.pt"
    for suffix in (".pt", ".json"):
        path.with_suffix(suffix).write_bytes(
            Path(random_backbone).with_suffix(suffix).read_bytes()
        )
    return path


def change(checkpoint):
    weights = torch.load(checkpoint)
    weights["ln_final.bias"] += 1
    torch.save(weights, checkpoint)


# -- the check


def test_the_message_names_both_and_says_what_to_do():
    with pytest.raises(BackboneMismatchError) as caught:
        check_same_backbone(ONE, TWO, name="ViT-B-32/openai", owner="CAPClassifier")
    assert str(caught.value) == (
        "CAPClassifier expected the backbone with the fingerprint ba9876543210..., got "
        "'ViT-B-32/openai' with 0123456789ab.... Bring the old weights back, or fit again and "
        "encode all images with the same backbone."
    )


@pytest.mark.parametrize(
    ("found", "expected"), [(ONE, ONE), (None, ONE), (ONE, None), (None,) * 2]
)
def test_the_same_fingerprint_or_an_unknown_one_passes(found, expected):
    check_same_backbone(found, expected, name="glyph", owner="CLIPEncoder")


# -- loading


@pytest.mark.parametrize("known", [True, False])
def test_the_backbone_of_the_name_is_loaded(random_backbone, known):
    expected = load_backbone(random_backbone, device="cpu")
    identity = expected.identity if known else None
    assert reload_backbone(random_backbone, identity, device="cpu", owner="x") is expected


def test_other_weights_under_the_name_are_refused(random_backbone):
    identity = load_backbone(random_backbone, device="cpu").identity
    message = f"{ONE[:12]}..., got {random_backbone!r} with {identity[:12]}..."
    with pytest.raises(BackboneMismatchError, match=re.escape(message)) as caught:
        reload_backbone(random_backbone, ONE, device="cpu", owner="the space")
    assert str(caught.value).startswith("the space expected the backbone with the fingerprint ")


def test_other_weights_are_refused_before_anything_is_built(checkpoint, monkeypatch):
    def build(*args):
        raise AssertionError("built")

    monkeypatch.setattr("capkit.backbones.loading.build_backbone", build)
    with pytest.raises(BackboneMismatchError, match=ONE[:12]):
        reload_backbone(str(checkpoint), ONE, device="cpu", owner="the space")
    with pytest.raises(AssertionError, match="built"):
        reload_backbone(str(checkpoint), None, device="cpu", owner="the space")


@pytest.mark.parametrize(("identity", "shown"), [(ONE, "0123456789ab..."), (None, "unknown")])
def test_a_file_that_is_gone_is_said_with_its_fingerprint(tmp_path, identity, shown):
    path = str(tmp_path / "gone.pt")
    message = (
        f"the space needs the backbone that was at {path!r} (fingerprint {shown}): there is no"
    )
    with pytest.raises(BackboneNotFoundError, match=re.escape(message)):
        reload_backbone(path, identity, device="cpu", owner="the space")


def test_no_name_is_no_backbone():
    with pytest.raises(ValueError, match="the space names no backbone, so that nothing can be"):
        reload_backbone(None, None, device="cpu", owner="the space")


def test_a_name_that_stands_for_nothing_is_an_error_of_loading():
    with pytest.raises(BackboneError, match="there/is no such backbone"):
        reload_backbone("there/is no such backbone", None, device="cpu", owner="the space")


# -- every owner asks, in the same words


def encoder(path):
    return CLIPEncoder(path, class_names=NAMES, device="cpu")


def zero_shot(path):
    return ZeroShotClassifier(backbone=path, class_names=NAMES, device="cpu")


def cap(path, tuning):
    return CAPClassifier(
        backbone=path,
        class_names=NAMES,
        tuning=tuning(epochs=1, steps_per_epoch=1, batch_size=4),
        device="cpu",
        pseudo_labels="zero_shot",
        random_state=0,
    )


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (encoder, "transform"),
        (zero_shot, "predict"),
        (lambda path: cap(path, AdapterTuning), "predict"),
        (lambda path: cap(path, PromptTuning), "predict"),
    ],
    ids=["encoder", "zero-shot", "adapter", "prompt"],
)
@pytest.mark.filterwarnings("ignore")  # the model is random: nothing it predicts is confident
def test_changed_weights_are_refused_by_what_was_fitted_with_the_old(
    make, use, images, checkpoint
):
    fitted = make(str(checkpoint)).fit(images)
    old = fitted.backbone_id_
    getattr(fitted, use)(images)
    if isinstance(fitted, CAPClassifier):
        fitted._model = pickle.loads(pickle.dumps(fitted._model))  # as in another process
    change(checkpoint)
    new = load_backbone(checkpoint, device="cpu").identity
    assert new != old
    with pytest.raises(
        BackboneMismatchError,
        match=rf"{type(fitted).__name__}.* expected .* {old[:12]}\.\.\., got .* {new[:12]}",
    ):
        getattr(fitted, use)(images[::-1].copy())


def test_changed_weights_are_refused_by_a_space_of_the_old(images, checkpoint):
    space = encoder(str(checkpoint)).fit_transform(images)
    mismatch = MismatchResult(np.array([0]), class_centers=space.text_features)
    detected = dataclasses.replace(space, mismatch=mismatch)
    change(checkpoint)
    for stage in (
        cap("auto", PromptTuning).set_params(class_names=None),
        ConceptAligner(describer=lambda class_name, n: ["a text"]),
    ):
        with pytest.raises(BackboneMismatchError, match="the ConceptSpace expected"):
            stage.fit(detected)


@pytest.mark.filterwarnings("ignore")
def test_a_space_of_another_backbone_is_refused_by_a_classifier(images, random_backbone):
    space = encoder(random_backbone).fit_transform(images)
    other = dataclasses.replace(space, backbone_id=ONE)
    for classifier in (zero_shot("auto"), cap("auto", AdapterTuning)):
        classifier.fit(space)
        with pytest.raises(
            BackboneMismatchError, match=rf"{type(classifier).__name__} expected .* {ONE[:12]}"
        ):
            classifier.predict(other)
