"""What strangers may have written, made up at random: read as what it is, or refused."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capkit import CAPClassifier
from capkit.describers import OllamaDescriber, load_descriptions
from capkit.exceptions import DescriberAnswerError
from faults.hostile import read, write, write_text
from faults.subjects import planted_space, quick_classifier, quietly_fitted

pytestmark = pytest.mark.slow

LIMITS = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("parsers") / "model.capkit"
    quietly_fitted(quick_classifier(), planted_space()).save(path)
    return path, path.read_bytes(), *read(path)


class TestSavedModel:
    @LIMITS
    @given(content=st.binary(max_size=400))
    def test_of_any_bytes_is_refused(self, saved, content):
        path = saved[0].with_suffix(".bytes")
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bytes"):  # the file's name
            CAPClassifier.load(path)

    @LIMITS
    @given(header=JSON)
    def test_of_any_header_is_refused(self, saved, header):
        path, _, _, arrays = saved
        path = path.with_suffix(".header")
        write(path, header, arrays)
        with pytest.raises(ValueError, match="header"):
            CAPClassifier.load(path)

    @LIMITS
    @given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
    def test_of_any_text_as_header_is_refused(self, saved, text):
        path, _, _, arrays = saved
        path = path.with_suffix(".text")
        write_text(path, text, arrays)
        with pytest.raises(ValueError, match="text"):
            CAPClassifier.load(path)

    @LIMITS
    @given(data=st.data(), value=JSON)
    def test_of_any_value_in_its_header_is_refused_or_read_as_it_is(self, saved, data, value):
        path, _, header, arrays = saved
        path = path.with_suffix(".value")
        part = data.draw(st.sampled_from(["parameters", "values"]))
        name = data.draw(st.sampled_from(sorted(header[part])))
        changed = {**header, part: {**header[part], name: value}}
        write(path, changed, arrays)
        try:
            model = CAPClassifier.load(path, device="cpu")
        except (ValueError, TypeError):
            return
        probabilities = model.predict_proba(planted_space())
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def _check_descriptions(found):
    assert isinstance(found, dict)
    for name, texts in found.items():
        assert isinstance(name, str) and name.strip()
        assert texts and all(isinstance(text, str) and text.isprintable() for text in texts)


class TestTable:
    @LIMITS
    @given(content=st.binary(max_size=300), suffix=st.sampled_from([".json", ".csv"]))
    def test_of_any_bytes_is_read_or_refused(self, tmp_path, content, suffix):
        path = tmp_path / f"table{suffix}"
        path.write_bytes(content)
        try:
            found = load_descriptions(path)
        except DescriberAnswerError:
            return
        _check_descriptions(found)

    @LIMITS
    @given(table=JSON)
    def test_of_any_json_is_read_or_refused(self, tmp_path, table):
        path = tmp_path / "table.json"
        path.write_text(json.dumps(table))
        try:
            found = load_descriptions(path)
        except DescriberAnswerError:
            return
        _check_descriptions(found)

    @LIMITS
    @given(rows=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
    def test_of_any_lines_is_read_or_refused(self, tmp_path, rows):
        path = tmp_path / "table.csv"
        path.write_text("\n".join(["class_name,description", *rows]), encoding="utf-8")
        try:
            found = load_descriptions(path)
        except DescriberAnswerError:
            return
        _check_descriptions(found)


class TestAnswer:
    @LIMITS
    @given(content=st.text() | JSON.map(json.dumps))
    def test_of_any_text_is_read_or_refused(self, content):
        describer = OllamaDescriber(n=2)
        try:
            texts = describer._parse(content, describer._question("river", 2))
        except DescriberAnswerError:
            return
        _check_descriptions({"river": texts})

    @LIMITS
    @given(texts=JSON)
    def test_of_any_descriptions_is_read_or_refused(self, texts):
        describer = OllamaDescriber(n=2)
        content = json.dumps({"descriptions": texts})
        try:
            found = describer._parse(content, describer._question("river", 2))
        except DescriberAnswerError:
            return
        _check_descriptions({"river": found})
