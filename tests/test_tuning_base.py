"""What all ways of tuning have in common."""

import dataclasses

import pytest
import torchvision.transforms as T
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CAPClassifier
from capkit.training.schedule import Schedule
from capkit.tuning import AdapterTuning, PromptTuning, Tuning
from capkit.tuning.choosing import TUNINGS

EACH = pytest.mark.parametrize("cls", TUNINGS.values())


@EACH
def test_schedule_has_the_numbers_of_the_tuning(cls):
    tuning = cls(epochs=3, learning_rate=0.5, optimizer="adamw")
    schedule = tuning.schedule()
    for field in dataclasses.fields(Schedule):
        assert getattr(schedule, field.name) == getattr(tuning, field.name)


@EACH
def test_a_transform_of_torchvision_is_a_parameter_like_any_other(cls):
    """torchvision's random transforms have a get_params that is not scikit-learn's."""
    tuning = cls(augment=T.RandomResizedCrop(32))
    assert tuning.get_params()["augment"] is tuning.augment
    assert CAPClassifier(tuning=tuning).get_params()["tuning__augment"] is tuning.augment
    copied = clone(tuning)
    assert isinstance(copied.augment, T.RandomResizedCrop)
    assert copied.augment is not tuning.augment
    other = T.RandomCrop(8)
    assert tuning.set_params(augment=other).augment is other
    assert "RandomCrop" in repr(tuning)


@EACH
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("steps_per_epoch", 0),
        ("batch_size", 0),
        ("learning_rate", -0.1),
        ("adapter_dim", 2.5),
        ("adapter_weight", -0.1),
        ("pseudo_adapter", "main"),
        ("optimizer", "adam"),
        ("momentum", 1.0),
        ("weight_decay", -1),
        ("warmup_epochs", -1),
        ("augment", "mirror"),
        ("augment", -0.5),
    ],
)
def test_values_out_of_range_are_found(cls, name, value):
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of {cls.__name__}"):
        cls(**{name: value})._validate_params()


def test_only_prompts_can_be_trained_without_adapters():
    PromptTuning(adapter_weight=0.0)._validate_params()
    with pytest.raises(InvalidParameterError, match="adapter_weight"):
        AdapterTuning(adapter_weight=0.0)._validate_params()


def test_only_prompt_tuning_trains_more_than_adapters():
    assert {name: cls.trains_encoder for name, cls in TUNINGS.items()} == {
        "prompt": True,
        "adapter": False,
    }


@EACH
def test_a_strong_view_has_an_adapter_of_its_own_by_default(cls):
    assert cls().pseudo_adapter is True
    assert clone(cls(pseudo_adapter=False)).pseudo_adapter is False


@EACH
def test_every_default_is_in_range(cls):
    cls()._validate_params()


def test_the_interface_cannot_be_used_half_filled_in():
    with pytest.raises(TypeError, match="abstract"):
        Tuning()


def test_names_are_those_of_the_classes():
    assert {name: cls.name for name, cls in TUNINGS.items()} == {
        "prompt": "prompt",
        "adapter": "adapter",
    }
