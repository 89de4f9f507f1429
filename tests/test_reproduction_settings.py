"""What the paper sets for each data set reaches the methods."""

from pathlib import Path

import pytest

from capkit.reproduction import SETTINGS
from capkit.reproduction.settings import methods_of
from capkit.tuning import AdapterTuning, PromptTuning


def test_the_paper_sets_other_numbers_for_two_of_its_sets():
    found = {name: (s.k, s.tau, s.m, s.growth) for name, s in SETTINGS.items()}
    assert found == {
        "flowers102": (6, 0.85, 12, 0.8),
        "resisc45": (16, 0.85, 12, 0.8),
        "dtd": (16, 0.85, 12, 0.8),
        "eurosat": (16, 0.85, 12, 0.8),
        "cub200": (16, 0.85, 12, 0.8),
        "fgvc_aircraft": (16, 0.5, 14, 0.6),
    }


def test_training_and_test_images_are_all_images_that_the_publishers_name():
    totals = {name: s.n_train + s.n_test for name, s in SETTINGS.items()}
    assert totals == {
        "flowers102": 8189,
        "resisc45": 31500,
        "dtd": 5640,
        "eurosat": 27000,
        "cub200": 11788,
        "fgvc_aircraft": 10000,
    }
    assert [s.n_classes for s in SETTINGS.values()] == [102, 45, 47, 10, 200, 100]


@pytest.mark.parametrize("name", ["CAP", "CAP (paper)"])
def test_both_forms_of_the_method_have_the_settings_of_the_set(name):
    cap = methods_of(SETTINGS["fgvc_aircraft"])[name]
    assert (cap.top_k, cap.tau, cap.m, cap.renewal.max_share) == (16, 0.5, 14.0, 0.6)
    assert methods_of(SETTINGS["flowers102"])[name].top_k == 6


def test_the_peers_have_their_own_defaults():
    assert methods_of(SETTINGS["flowers102"])["UPL"].top_k == 16


def test_the_schedule_is_the_papers():
    tuning = methods_of(SETTINGS["dtd"])["CAP (paper)"].tuning
    assert tuning == "prompt"
    schedule = PromptTuning().schedule()
    assert (schedule.epochs, schedule.steps_per_epoch, schedule.batch_size) == (50, 50, 32)
    assert (schedule.optimizer, schedule.learning_rate, schedule.weight_decay) == (
        "sgd",
        0.01,
        0.1,
    )


def test_all_that_train_have_the_tuning_that_is_given():
    methods = methods_of(SETTINGS["dtd"], ["GRIP", "CAP"], tuning=AdapterTuning(epochs=3))
    assert list(methods) == ["GRIP", "CAP"]
    assert [method.tuning.epochs for method in methods.values()] == [3, 3]


def test_a_describer_is_for_the_method_alone():
    def describe(class_name, n):
        return ["a text"]

    methods = methods_of(SETTINGS["dtd"], describer=describe)
    with_one = [name for name, m in methods.items() if getattr(m, "describer", None) is describe]
    assert with_one == ["CAP (paper)", "CAP"]


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"expected methods of zero-shot, .* got 'magic'"):
        methods_of(SETTINGS["dtd"], ["CAP", "magic"])


def test_a_set_is_read_by_the_fetcher_of_its_name(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "capkit.datasets.fetch_dtd",
        lambda data_home, *, split: calls.append((data_home, split)),
        raising=False,
    )
    SETTINGS["dtd"].fetch(Path("sets"), "test")
    assert calls == [(Path("sets"), "test")]
