"""What a file has to hold to be a classifier: each part that is wrong is named."""

import numpy as np
import pytest

from capkit._saved import check_saved
from capkit.persistence import SavedModel
from capkit.tuning import AdapterTuning, PromptTuning

C, D, H, N, K = 3, 6, 4, 10, 2  # classes, width, width of adapters, images, own classes


def floats(*shape):
    return np.ones(shape, dtype=np.float32)


def integers(*values):
    return np.array(values, dtype=np.int64)


def adapters():
    return {
        f"weights.{name}.{part}": floats(*shape)
        for name in ("text_adapter", "main_adapter", "pseudo_adapter")
        for part, shape in {
            "fc1.weight": (H, D),
            "fc1.bias": (H,),
            "fc2.weight": (D, H),
            "fc2.bias": (D,),
        }.items()
    }


def prior():
    return {
        "prior.dimension": np.array([5.0]),
        "prior.keys": np.arange(N, dtype=np.uint64),
        "prior.log_prior": np.zeros(C),
        "prior.logit_scale": np.array([100.0]),
        "prior.mean_variance": np.ones(C),
        "prior.mismatched": integers(),
        "prior.own_classes": np.zeros((N, K), dtype=np.int32),
        "prior.own_share": floats(N, K),
        "prior.text_features": floats(C, D),
        "prior.trust": np.array([0.5]),
        "prior.whitened_means": floats(C, D),
        "prior.whitening": floats(D, D),
    }


def make_model(tuning=None, *, values=(), arrays=(), without=()):
    """A model that is right, but for what is given."""
    right = {
        "adaptation_report_": {
            "kept": "training",
            "trust": 0.5,
            "n_images": N,
            "images_per_class": 3.0,
            "evenness": 1.0,
            "n_changed": 1,
            "steps": [
                {"name": "a", "n_changed": 1, "clarity": 2.0, "kept": True, "reason": "b"},
            ],
        },
        "backbone_id_": None,
        "backbone_name_": None,
        "class_names_": ["cat", "dog", "emu"],
        "descriptions_": {"dog": "a dog that barks"},
        "history_": [{"epoch": 1, "loss": 0.5, "class_counts": [1, 2, 3]}],
        "label_kind": "name",
        "logit_scale_": 100.0,
        "n_features_in_": D,
        "paradigm_": "ul",
        "seed_": 0,
        "temperature_": 1.0,
        "tuning_": tuning or AdapterTuning(adapter_dim=H),
    }
    there = {
        "frozen_text_features": floats(C, D),
        "main_labels_": integers(*[-1] * N),
        "margin_matrix_": floats(C, C),
        "mismatched_": integers(1),
        "pseudo_labels_": integers(*[2] * N),
        "weights.text_features": floats(C, D),
        **adapters(),
        **prior(),
    }
    model = SavedModel({}, right | dict(values), there | dict(arrays))
    for name in without:
        (model.arrays if name in model.arrays else model.values).pop(name)
    return model


def of_group(prefix):
    return [name for name in make_model().arrays if name.startswith(prefix)]


@pytest.mark.parametrize(
    "without",
    [(), of_group("prior."), of_group("weights."), of_group("prior.") + of_group("weights.")],
    ids=["all", "no Gaussians", "no training", "neither"],
)
def test_what_a_classifier_writes_passes(without):
    check_saved(make_model(without=without))


def test_prompts_pass():
    prompts = {"weights.visual_prompts": floats(3, 2, 16)}
    check_saved(make_model(PromptTuning(adapter_dim=H, prompt_length=2), arrays=prompts))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature_", 0),
        ("temperature_", float("nan")),
        ("temperature_", "1"),
        ("logit_scale_", float("inf")),
        ("n_features_in_", True),
        ("n_features_in_", 0),
        ("class_names_", "cat"),
        ("class_names_", ["cat", "dog", 3]),
        ("label_kind", "letter"),
        ("paradigm_", ["ul"]),
        ("seed_", -1),
        ("seed_", 2**32),
        ("tuning_", "adapter"),
        ("tuning_", None),
        ("backbone_name_", 3),
        ("backbone_id_", ""),
        ("descriptions_", {"dog": 3}),
        ("history_", {"loss": 1}),
        ("history_", [{"loss": float("nan")}]),
        ("history_", [{"loss": {}}]),
        ("adaptation_report_", {}),
        ("adaptation_report_", "good"),
    ],
)
def test_a_value_that_is_wrong_is_named(name, value):
    with pytest.raises(ValueError, match=f"expected {name} as .*the file has"):
        check_saved(make_model(values={name: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": "all"}, "adaptation_report_"),
        ({"trust": None}, "adaptation_report_"),
        ({"steps": [{"name": "a"}]}, "adaptation_report_"),
        (
            {"steps": [{"name": 1, "n_changed": 1, "clarity": 2.0, "kept": True, "reason": "b"}]},
            "adaptation_report_",
        ),
    ],
)
def test_a_report_that_is_wrong_is_refused(change, message):
    report = make_model().values["adaptation_report_"] | change
    with pytest.raises(ValueError, match=message):
        check_saved(make_model(values={"adaptation_report_": report}))


def test_doubled_names_and_descriptions_of_nothing_are_refused():
    with pytest.raises(ValueError, match="got twice"):
        check_saved(make_model(values={"class_names_": ["cat", "dog", "cat"]}))
    with pytest.raises(ValueError, match="description of 'gnu', which is not a class"):
        check_saved(make_model(values={"descriptions_": {"gnu": "a gnu"}}))


@pytest.mark.parametrize("name", ["tuning_", "seed_", "pseudo_labels_", "weights.text_features"])
def test_what_is_missing_is_named(name):
    with pytest.raises(ValueError, match=rf"lack \['{name}'\]"):
        check_saved(make_model(without=[name]))


@pytest.mark.parametrize("part", ["values", "arrays"])
def test_what_nobody_writes_is_named(part):
    with pytest.raises(ValueError, match=rf"its {part} .* \['colour'\] that no classifier"):
        check_saved(make_model(**{part: {"colour": floats(1)}}))


def test_every_array_has_its_shape_and_type_and_is_finite():
    for name, array in make_model().arrays.items():
        with pytest.raises(ValueError, match=name):
            check_saved(make_model(arrays={name: array[None]}))
        with pytest.raises(ValueError, match=f"expected {name} as"):
            check_saved(make_model(arrays={name: array.astype(np.float16)}))
        if array.dtype.kind == "f":
            wrong = array.copy()
            wrong.flat[-1] = np.nan
            with pytest.raises(ValueError, match=f"{name} is not finite"):
                check_saved(make_model(arrays={name: wrong}))


def test_shapes_follow_from_classes_width_and_tuning():
    for change in (
        {"values": {"class_names_": ["cat", "dog"], "descriptions_": {}}},
        {"values": {"n_features_in_": D + 1}},
        {"tuning": AdapterTuning(adapter_dim=H + 1)},
    ):
        with pytest.raises(ValueError, match=r"expected .* of shape \(.*\), the file has"):
            check_saved(make_model(**change))
    prompts = {"weights.visual_prompts": floats(3, 5, 16)}
    with pytest.raises(ValueError, match=r"visual_prompts of shape \(any, 2, any\)"):
        check_saved(make_model(PromptTuning(adapter_dim=H), arrays=prompts))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("main_labels_", integers(*[C] * N)),
        ("pseudo_labels_", integers(*[-2] * N)),
        ("mismatched_", integers(-1)),
        ("prior.mismatched", integers(C)),
        ("prior.own_classes", np.full((N, K), C, dtype=np.int32)),
        ("prior.own_share", -floats(N, K)),
        ("prior.mean_variance", -np.ones(C)),
        ("prior.dimension", np.array([-1.0])),
        ("prior.trust", np.array([2.0])),
        ("prior.logit_scale", np.array([10.0])),
    ],
)
def test_numbers_are_in_their_range(name, value):
    with pytest.raises(ValueError, match=rf"expected {name} in \[.*\], the file has"):
        check_saved(make_model(arrays={name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pseudo_labels_", integers(0)),
        ("prior.keys", np.arange(3, dtype=np.uint64)),
        ("prior.own_share", floats(N, K + 1)),
    ],
)
def test_arrays_of_the_same_images_are_of_one_length(name, value):
    with pytest.raises(ValueError, match=r"of one length|of shape"):
        check_saved(make_model(arrays={name: value}))
