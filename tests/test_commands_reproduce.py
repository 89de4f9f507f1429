"""The functions behind ``capkit reproduce``, for those who write Python."""

import sys

import pytest
from paper_sets import digit_fetcher

from capkit import CLIPEncoder
from capkit.commands import estimate_reproduction, reproduce, reproduce_paper
from capkit.reproduction import SETTINGS
from capkit.tuning import AdapterTuning, PromptTuning


@pytest.fixture
def protocol(monkeypatch):
    """What the protocol is called with."""
    calls = []
    monkeypatch.setattr(reproduce, "run_protocol", lambda *a, **k: calls.append((a[0], k)))
    return calls


def test_all_are_the_sets_of_the_paper_once_and_in_its_order(protocol):
    reproduce_paper("all")
    reproduce_paper(["dtd", "all"])
    reproduce_paper("dtd")
    reproduce_paper(["cub200", "dtd", "cub200"])
    sets = [[settings.data_set for settings in given] for given, _ in protocol]
    assert sets == [list(SETTINGS), list(SETTINGS), ["dtd"], ["cub200", "dtd"]]


def test_the_defaults_are_the_papers(protocol):
    reproduce_paper()
    _, named = protocol[0]
    assert named["encoder"].backbone == "ViT-B-32/openai"
    assert named["tuning"].get_params() == PromptTuning().get_params()
    assert isinstance(named["tuning"], PromptTuning)
    assert named["seeds"] == (1, 2, 3) and named["paradigms"] == ("ul",)
    assert named["methods"] is None


def test_what_is_given_is_not_changed(protocol):
    encoder, tuning = CLIPEncoder("glyph"), AdapterTuning(epochs=3)
    reproduce_paper("dtd", encoder=encoder, tuning=tuning)
    _, named = protocol[0]
    assert named["tuning"] is not tuning and named["tuning"].epochs == 3
    assert named["encoder"] is not encoder and named["encoder"].backbone == "glyph"


@pytest.mark.parametrize("function", [reproduce_paper, estimate_reproduction])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data_sets": "mnist"}, "expected data sets of flowers102, .* got 'mnist'"),
        ({"data_sets": []}, "expected one or more data sets of .* got none"),
        ({"data_sets": "dtd", "tuning": "magic"}, "expected tuning as one of prompt, adapter"),
        ({"data_sets": "dtd", "paradigms": ["all"]}, "expected paradigms of ul, ssl, trzsl"),
        ({"data_sets": "dtd", "methods": ["magic"]}, "expected methods of zero-shot"),
    ],
)
def test_wrong_arguments_are_found_before_anything_is_downloaded(
    function, arguments, said, tmp_path, monkeypatch
):
    def fetch(*_, **__):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr("capkit.datasets.fetch_dtd", fetch, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        function(**arguments, encoder=CLIPEncoder("glyph"))
    assert not list(tmp_path.iterdir())


def test_an_experiment_gives_its_tables(tmp_path, monkeypatch):
    fetch = digit_fetcher(tmp_path / "set")
    monkeypatch.setattr("capkit.datasets.fetch_eurosat", fetch, raising=False)
    with pytest.warns(UserWarning, match="eurosat has 4 classes"):
        result = reproduce_paper(
            "eurosat",
            methods=["zero-shot"],
            seeds=[1],
            encoder=CLIPEncoder("glyph"),
            out=tmp_path / "a" / "b",
            verbose=0,
        )
    assert [path.parent for path in result.written] == [tmp_path / "a" / "b"]
    assert list(result.comparisons) == [("eurosat", "ul")]


@pytest.mark.parametrize("function", [reproduce_paper, estimate_reproduction])
@pytest.mark.parametrize(("package", "extra"), [("pooch", "datasets"), ("psutil", "compare")])
def test_a_missing_package_is_named_before_anything_is_measured(
    function, package, extra, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(reproduce, "estimate_time", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(ImportError, match=rf"requires {package}.*capkit-clip\[{extra}\]"):
        function("dtd", encoder=CLIPEncoder("glyph"))
