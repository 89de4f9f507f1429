"""MainSampleRenewal: its parameters are those of the method, and what they change."""

import inspect

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CAPClassifier, MainSampleRenewal
from capkit.datasets import make_concept_space
from capkit.pseudolabels import main_sample_target
from capkit.tuning import AdapterTuning

# Said of trainings that are cut short on purpose, or of images that are noise.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")


@pytest.fixture(scope="module")
def space():
    """Ten classes of 40 images each."""
    return make_concept_space(400, 10, 40, n_mismatched=0, random_state=0).space


def fit(space, renewal):
    return CAPClassifier(
        tuning=AdapterTuning(epochs=4, steps_per_epoch=15),
        top_k=2,
        tau=0.2,
        renewal=renewal,
        pseudo_labels="zero_shot",
        random_state=0,
    ).fit(space)


def numbers_of_main_samples(classifier):
    """Of the whole training, epoch by epoch, and after the last one."""
    after = int((classifier.main_labels_ >= 0).sum())
    return [row["n_main"] for row in classifier.history_] + [after]


def test_defaults_are_the_methods():
    renewal = MainSampleRenewal()
    assert renewal.get_params() == {
        "every": 5,
        "ramp_fraction": 0.7,
        "max_share": 0.8,
        "max_per_class": 1000,
    }
    parameters = inspect.signature(main_sample_target).parameters
    for name in ("ramp_fraction", "max_share", "max_per_class"):
        assert parameters[name].default == getattr(renewal, name)


def test_it_is_copied_and_set_as_a_nested_object():
    classifier = CAPClassifier(renewal=MainSampleRenewal(every=None))
    assert clone(classifier).renewal.every is None
    classifier.set_params(renewal__max_per_class=7)
    assert repr(classifier.renewal) == "MainSampleRenewal(every=None, max_per_class=7)"
    with pytest.raises(
        ValueError, match="renewal__every cannot be set, as renewal=None is no obj"
    ):
        CAPClassifier().set_params(renewal__every=2)


def test_parameters_are_keyword_only():
    with pytest.raises(TypeError):
        MainSampleRenewal(5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every", 0),
        ("every", 2.5),
        ("ramp_fraction", 0),
        ("ramp_fraction", 1.5),
        ("max_share", -0.1),
        ("max_share", 1.5),
        ("max_per_class", 0),
    ],
)
def test_values_out_of_range_are_refused_at_fit(space, name, value):
    with pytest.raises(
        InvalidParameterError, match=f"The '{name}' parameter of MainSampleRenewal must be"
    ):
        fit(space, MainSampleRenewal(**{name: value}))


def test_never_renewed_main_samples_stay_those_of_the_start(space):
    classifier = fit(space, MainSampleRenewal(every=None))
    assert numbers_of_main_samples(classifier) == [20] * 5


def test_main_samples_grow_at_each_renewal_up_to_the_share(space):
    # Up to half of 40 images a class, after half of the 4 epochs: 2, 11, 20, 20, 20.
    renewal = MainSampleRenewal(every=1, ramp_fraction=0.5, max_share=0.5)
    numbers = numbers_of_main_samples(fit(space, renewal))
    assert numbers == [20, 110, 200, 200, 200]
    twice = MainSampleRenewal(every=2, ramp_fraction=0.5, max_share=0.5)
    assert numbers_of_main_samples(fit(space, twice)) == [20, 20, 200, 200, 200]


def test_main_samples_of_a_class_are_limited(space):
    renewal = MainSampleRenewal(every=1, ramp_fraction=0.25, max_per_class=5)
    classifier = fit(space, renewal)
    assert numbers_of_main_samples(classifier) == [20, 50, 50, 50, 50]
    labels = classifier.main_labels_
    assert np.bincount(labels[labels >= 0]).tolist() == [5] * 10


def test_none_is_the_default_object(space):
    given, default = fit(space, MainSampleRenewal()), fit(space, None)
    np.testing.assert_array_equal(given.main_labels_, default.main_labels_)
    assert given.history_ == default.history_
