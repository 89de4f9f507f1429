"""Numerical libraries work in one thread where arrays are small, and as before afterwards."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from capkit import CAPClassifier, GaussianTransduction, MismatchDetector, transduction
from capkit._threads import one_thread
from capkit.datasets import make_concept_space
from capkit.training.net import CAPNet
from capkit.tuning import AdapterTuning


def threads():
    """Threads of torch and of each library of numpy and scikit-learn."""
    return torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_thread_inside_and_as_before_afterwards():
    before = threads()
    with one_thread():
        in_torch, in_others = threads()
        assert in_torch == 1
        assert set(in_others) == {1}
    assert threads() == before


def test_threads_come_back_after_an_error():
    before = threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / 0  # noqa: B018
    assert threads() == before


def test_large_arrays_keep_their_threads():
    before = threads()
    with one_thread(n_numbers=10**9):
        assert threads() == before


def test_fits_on_small_arrays_take_one_thread_and_give_the_others_back(monkeypatch):
    seen = []

    def spy(name, owner):
        original = getattr(owner, name)

        def spied(*args, **kwargs):
            seen.append((name, threads()[0]))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, spied)

    spy("train_step", CAPNet)
    space = make_concept_space(200, 5, 16, random_state=0).space
    before = threads()
    CAPClassifier(
        tuning=AdapterTuning(epochs=1, steps_per_epoch=2),
        pseudo_labels=GaussianTransduction(guard=False),
        random_state=0,
    ).fit(space)
    assert seen == [("train_step", 1), ("train_step", 1)]
    assert threads() == before


@pytest.mark.parametrize(
    "stage", [GaussianTransduction(guard=False), MismatchDetector(t=1, random_state=0)]
)
def test_stages_give_the_same_with_any_number_of_threads(stage):
    space = make_concept_space(200, 5, 16, random_state=0).space
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        fitted = stage.fit(space)
        name = "means_" if hasattr(fitted, "means_") else "cluster_centers_"
        results.append(getattr(fitted, name).copy())
    np.testing.assert_array_equal(*results)


def test_all_that_transduction_works_out_is_in_one_thread(monkeypatch):
    seen = set()
    for name in ("_Rounds", "_Assignments"):
        original = getattr(transduction, name)

        def spied(*args, original=original, name=name, **kwargs):
            seen.add((name, threads()[0], *threads()[1]))
            return original(*args, **kwargs)

        monkeypatch.setattr(transduction, name, spied)
    GaussianTransduction(guard=False).fit(make_concept_space(200, 5, 16, random_state=0).space)
    assert {name for name, *_ in seen} == {"_Rounds", "_Assignments"}
    assert {n_threads for _, *all_threads in seen for n_threads in all_threads} == {1}
