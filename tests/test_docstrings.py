"""Docstrings are held against signatures and fitted attributes."""

import dataclasses
import inspect
import pkgutil

import numpy as np
import pytest
from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags
from test_public_api import public_names

from capkit.tuning import AdapterTuning

# numpydoc's own checks that every public docstring passes.
CHECKS = {
    "GL03",  # double blank line
    "GL06",  # unknown section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "SS01",  # no summary
    "SS02",  # summary without a capital letter
    "SS03",  # summary without a period
    "PR01",  # parameter not documented
    "PR02",  # documented parameter that does not exist
    "PR03",  # parameters in another order than in the signature
    "PR04",  # parameter without a type
    "RT01",  # no Returns section
    "YD01",  # no Yields section
}


def resolve(name: str) -> object:
    return pkgutil.resolve_name(name)


def documented_objects() -> list[str]:
    """Names of all public classes, functions, and the methods that capkit itself defines."""
    names = []
    for name in sorted(public_names()):
        value = resolve(name)
        if not value.__module__.startswith("capkit"):
            continue  # scikit-learn's, exported for convenience
        names.append(name)
        if inspect.isclass(value):
            names += [f"{name}.{method}" for method in own_methods(value)]
    return names


def own_methods(cls: type) -> list[str]:
    return sorted(
        {
            method
            for parent in cls.__mro__
            if parent.__module__.startswith("capkit")
            for method, value in vars(parent).items()
            if method[0] != "_" and inspect.isfunction(inspect.unwrap(value))
        }
    )


ESTIMATORS = sorted(
    name
    for name in public_names()
    if inspect.isclass(resolve(name))
    and issubclass(resolve(name), BaseEstimator)
    and not inspect.isabstract(resolve(name))
)


@pytest.mark.parametrize("name", documented_objects())
def test_docstring_fits_the_signature(name):
    errors = [error for error in validate(name)["errors"] if error[0] in CHECKS]
    value = resolve(name)
    if dataclasses.is_dataclass(value) and not ClassDoc(value)["Parameters"]:
        # What stages leave: users read its fields and do not build it.
        errors = [error for error in errors if error[0] != "PR01"]
        fields = [field.name for field in dataclasses.fields(value)]
        assert [entry.name for entry in ClassDoc(value)["Attributes"]] == fields
    assert errors == []


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_document_defaults(name):
    """The default in the text is the one in the signature."""
    cls = resolve(name)
    documented = {
        entry.name: entry.type.rpartition("default=")[2].replace('"', "'")
        for entry in ClassDoc(cls)["Parameters"]
    }
    defaults = {
        parameter.name: repr(parameter.default)
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    for parameter, default in defaults.items():
        # A long text stands in the docstring as the name of its constant.
        if len(default) < 60:
            assert documented[parameter] == default, parameter


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_show_an_example(name):
    assert ClassDoc(resolve(name))["Examples"], "no Examples section"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if hasattr(resolve(name), "fit")])
@pytest.mark.filterwarnings("ignore")  # the model is random: nothing it predicts is confident
def test_fitted_attributes_are_documented_and_documented_ones_exist(
    name, images, random_backbone, planted_space
):
    cls = resolve(name)
    parameters = inspect.signature(cls).parameters
    if "backbone" in parameters:
        estimator = cls(backbone=random_backbone)
        if "tuning" in parameters:
            estimator.set_params(tuning=AdapterTuning(epochs=1, steps_per_epoch=1))
        names = ["ring", "bar", "cross"]
        labels = names * 8 if get_tags(estimator).target_tags.required else None
        estimator.fit(images, labels, class_names=names)
    else:
        estimator = cls().fit(planted_space)
    documented = {entry.name for entry in ClassDoc(cls)["Attributes"] if entry.name[-1] == "_"}
    fitted = {key for key in vars(estimator) if key[-1] == "_" and key[0] != "_"}
    assert fitted - documented == set(), "fitted but not documented"
    missing = {key for key in documented if not hasattr(estimator, key)}
    assert missing == set(), "documented but not fitted"


def needs_an_example(name: str) -> bool:
    """All but what is raised, what is only read off a result, and what is only derived from."""
    value = resolve(name)
    is_read = inspect.isclass(value) and dataclasses.is_dataclass(value)
    is_base = inspect.isclass(value) and inspect.isabstract(value)
    is_raised = inspect.isclass(value) and issubclass(value, BaseException)
    return not (is_read or is_base or is_raised)


@pytest.mark.parametrize("name", sorted(filter(needs_an_example, public_names())))
def test_there_is_an_example(name):
    assert ">>> " in (inspect.getdoc(resolve(name)) or ""), f"{name} has no example"
