"""A real language model answers: one on any server that speaks OpenAI's protocol.

    CAPKIT_LANGUAGE_MODEL_URL=http://127.0.0.1:8080/v1 CAPKIT_LANGUAGE_MODEL=gemma-3-4b-it \
        pytest -m slow tests/test_real_language_model.py

``benchmarks/language_model.py`` shows how to have a small one without an account or a GPU.
"""

import os

import pytest

from capkit import CLIPEncoder, ConceptAligner
from capkit.datasets import load_digits
from capkit.describers import OpenAIDescriber

URL = os.environ.get("CAPKIT_LANGUAGE_MODEL_URL")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(URL is None, reason="CAPKIT_LANGUAGE_MODEL_URL names no server"),
]


@pytest.fixture
def describer(tmp_path):
    model = os.environ.get("CAPKIT_LANGUAGE_MODEL", "default")
    return OpenAIDescriber(URL, model, n_jobs=1, timeout=600.0, cache_dir=tmp_path)


def test_it_keeps_to_the_layout_and_answers_are_kept(describer):
    found = describer.describe(["river", "harbour"], 3)
    assert list(found) == ["river", "harbour"]
    for texts in found.values():
        assert 1 <= len(texts) <= 3
        assert all(text == text.strip() != "" and len(text) <= 300 for text in texts)
    unreachable = OpenAIDescriber(**(describer.get_params() | {"timeout": 1e-6}))
    assert unreachable.describe(["harbour", "river"], 3) == found


@pytest.mark.filterwarnings("ignore:.*description")
def test_whatever_it_says_alignment_does_no_great_harm(describer):
    train, test = load_digits(split="train"), load_digits(split="test")
    encoder = CLIPEncoder("glyph", class_names=train.class_names)
    aligner = ConceptAligner(describer, n_descriptions=4, random_state=0)
    aligner.fit(encoder.fit_transform(train.images))
    space = encoder.transform(test.images)
    before = (space.predict() == test.target).mean()
    after = (aligner.transform(space).predict() == test.target).mean()
    assert len(aligner.candidate_descriptions_) == len(aligner.mismatched_) > 0
    assert after > before - 0.05
