"""Describers: the real ollama client against a server on loopback, tables, and any callable."""

import json
import os
import pickle
import socket
import threading
import time

import pytest
from ollama_server import OllamaServer
from sklearn.base import clone

from capkit.datasets import load_digits, load_handwriting
from capkit.describers import (
    OllamaDescriber,
    TableDescriber,
    clean_descriptions,
    describe_classes,
    load_descriptions,
    save_descriptions,
)
from capkit.describers.answers import _checksum
from capkit.exceptions import (
    CacheError,
    ClassNamesError,
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
    DescriberModelError,
    DescriberTimeoutError,
)

TABLE = {"river": ["a winding blue band", 'brown, "muddy" water'], "lake": ["a dark blot"]}


@pytest.fixture
def server():
    with OllamaServer() as server:
        yield server


@pytest.fixture
def pauses(monkeypatch):
    """Lengths of the pauses before retries, which are not waited for."""
    lengths = []
    monkeypatch.setattr(time, "sleep", lengths.append)
    return lengths


# -- asking Ollama


def test_ollama_describes_each_class(server):
    descriptions = OllamaDescriber(host=server.host).describe(["river", "lake"], 2)
    assert descriptions == {
        "river": ["river seen from side 0", "river seen from side 1"],
        "lake": ["lake seen from side 0", "lake seen from side 1"],
    }
    assert list(descriptions) == ["river", "lake"]


def test_the_number_of_the_constructor_is_the_default(server):
    assert len(OllamaDescriber(host=server.host, n=3)("river")) == 3


def test_the_question_asks_for_what_can_be_seen_in_a_given_layout(server):
    OllamaDescriber(host=server.host, temperature=0.25, seed=11)("river", 5)
    (question,) = server.questions
    text = question["messages"][-1]["content"]
    assert '"river"' in text and "Write 5 " in text and "can be seen" in text.replace("\n", " ")
    assert question["format"]["properties"]["descriptions"] == {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 5,
        "maxItems": 5,
    }
    assert question["options"]["temperature"] == 0.25
    assert question["options"]["seed"] == 11
    assert question["stream"] is False


def test_seed_none_is_left_to_the_server(server):
    OllamaDescriber(host=server.host, seed=None)("river", 1)
    assert "seed" not in server.questions[0]["options"]


def test_the_prompt_can_be_replaced_and_braces_in_names_are_harmless(server):
    OllamaDescriber(host=server.host, prompt="{n} shapes of {class_name} from above")("a {n}", 4)
    assert server.questions[0]["messages"][-1]["content"] == '4 shapes of "a {n}" from above'


@pytest.mark.parametrize("model", ["llama3.2", "llama3.2:latest"])
def test_the_tag_latest_may_be_left_out(server, model):
    assert OllamaDescriber(model, host=server.host)("river", 1) == ["river seen from side 0"]


def test_classes_are_asked_for_in_parallel(server):
    server.meeting = threading.Barrier(3, timeout=10)  # breaks unless three requests meet
    OllamaDescriber(host=server.host, n_jobs=3).describe([f"class {i}" for i in range(6)], 1)
    assert server.most_at_once == 3


def test_a_class_named_twice_is_asked_for_once(server):
    OllamaDescriber(host=server.host).describe(["river", "river"], 1)
    assert len(server.questions) == 1


def test_no_classes_need_no_server():
    assert OllamaDescriber(host="127.0.0.1:1").describe([], 2) == {}


# -- keeping answers


def test_an_answer_is_asked_for_once_by_an_object_and_its_clones(server):
    describer = OllamaDescriber(host=server.host)
    first = describer("river", 2)
    first.append("changed by the caller")
    again = clone(clone(describer))
    assert again("river", 2) == describer("river", 2) == first[:2]
    assert again.get_params() == describer.get_params()
    assert len(server.questions) == 1


def test_a_clone_that_was_made_before_shares_answers_too(server):
    describer = OllamaDescriber(host=server.host)
    early = clone(describer)
    describer("river", 2)
    early("river", 2)
    assert len(server.questions) == 1


def test_the_cache_on_disk_outlives_the_object(server, tmp_path):
    first = OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    assert OllamaDescriber(host=server.host, cache_dir=str(tmp_path))("river", 2) == first
    assert len(server.questions) == 1
    (path,) = (tmp_path / "descriptions").iterdir()
    record = json.loads(path.read_text())
    assert record["class_name"] == "river" and record["descriptions"] == first


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.1},
        {"seed": 1},
        {"seed": None},
        {"prompt": "Draw {class_name} in {n} ways"},
        {"n": 3},
    ],
    ids=str,
)
def test_whatever_changes_the_answer_is_in_the_key(server, tmp_path, change):
    OllamaDescriber(host=server.host, cache_dir=tmp_path)("river")
    OllamaDescriber(host=server.host, cache_dir=tmp_path, **change)("river")
    assert len(server.questions) == 2


def test_a_model_that_was_pulled_anew_is_asked_anew_once_the_server_is_asked(server, tmp_path):
    describer = OllamaDescriber(host=server.host, cache_dir=tmp_path)
    describer("river", 2)
    server.models["llama3.2:latest"] = "0" * 64
    describer("river", 2)
    assert len(server.questions) == 1
    describer.describe(["river", "lake"], 2)
    assert len(server.questions) == 3
    describer.describe(["river", "lake"], 2)
    assert len(server.questions) == 3


@pytest.mark.parametrize("keep", ["in memory", "on disk"])
def test_kept_answers_need_no_server(tmp_path, keep):
    with OllamaServer() as server:
        describer = OllamaDescriber(host=server.host, cache_dir=tmp_path)
        expected = describer.describe(["river", "lake"], 2)
    if keep == "on disk":
        describer = OllamaDescriber(host=server.host, cache_dir=tmp_path)
    assert describer.describe(["lake", "river"], 2) == expected
    with pytest.raises(DescriberConnectionError, match="cannot be reached") as caught:
        describer.describe(["lake", "sea"], 2)
    assert caught.value.descriptions == {"lake": expected["lake"]}


@pytest.mark.parametrize(
    "content",
    [
        b'{"descriptions": ["a bl',
        b"[" * 100_000,
        b"[]",
        b"\xff\xfe\x00",
        b'{"descriptions": ["a blue band"]}',  # of what, it does not say
        b" " * (4 * 2**20 + 1),
    ],
    ids=["cut off", "deep", "list", "binary", "bare", "huge"],
)
def test_a_damaged_file_is_asked_for_again_and_mended(server, tmp_path, caplog, content):
    expected = OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    (path,) = (tmp_path / "descriptions").iterdir()
    path.write_bytes(content)
    assert OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2) == expected
    assert str(path) in caplog.text
    assert json.loads(path.read_text())["descriptions"] == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class_name", "lake"),
        ("model", "gemma3:4b"),
        ("n", 3),
        ("system", "Answer in rhymes."),
        ("prompt", "What does it sound like?"),
        ("options", {"temperature": 2.0}),
        ("digest", None),
        ("descriptions", {"0": "a blue band"}),
    ],
)
def test_an_entry_for_something_else_is_not_used(server, tmp_path, caplog, field, value):
    expected = OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    (path,) = (tmp_path / "descriptions").iterdir()
    record = json.loads(path.read_text()) | {field: value}
    del record["checksum"]
    path.write_text(json.dumps(record | {"checksum": _checksum(record)}))
    assert OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2) == expected
    assert len(server.questions) == 2
    assert field in caplog.text


def test_an_entry_of_which_a_letter_has_changed_is_asked_for_again(server, tmp_path, caplog):
    expected = OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    (path,) = (tmp_path / "descriptions").iterdir()
    path.write_text(path.read_text().replace("seen from side 1", "seen from side 7"))
    assert OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2) == expected
    assert len(server.questions) == 2
    assert "not what was written" in caplog.text


def test_an_entry_under_another_s_name_is_not_used(server, tmp_path, caplog):
    OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    (river,) = (tmp_path / "descriptions").iterdir()
    OllamaDescriber(host=server.host, cache_dir=tmp_path)("lake", 2)
    (lake,) = set((tmp_path / "descriptions").iterdir()) - {river}
    river.write_bytes(lake.read_bytes())
    texts = OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    assert texts == ["river seen from side 0", "river seen from side 1"]
    assert "for class_name 'river', got 'lake'" in caplog.text


def test_what_a_killed_process_left_is_removed_in_time(server, tmp_path):
    folder = tmp_path / "descriptions"
    folder.mkdir()
    remnant, being_written = folder / ".a.json.1-1.partial", folder / ".b.json.2-2.partial"
    for path in (remnant, being_written):
        path.write_text('{"class_name": "riv')
    long_ago = remnant.stat().st_mtime - 2 * 3600
    os.utime(remnant, (long_ago, long_ago))
    OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 2)
    assert being_written.exists() and not remnant.exists()


def test_a_cache_dir_that_is_a_file_is_found_before_anything_is_asked(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot make the folder"):
        OllamaDescriber(host=server.host, cache_dir=tmp_path / "file")("river")
    assert not server.questions


def test_an_answer_that_cannot_be_written_is_not_lost(server, tmp_path, monkeypatch):
    describer = OllamaDescriber(host=server.host, cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _disk_full)
        with pytest.raises(CacheError, match="No space left"):
            describer("river", 2)
    assert not list((tmp_path / "descriptions").iterdir())
    assert len(describer("river", 2)) == 2
    assert len(server.questions) == 1


def _disk_full(*arguments):
    raise OSError(28, "No space left on device")


# -- what goes wrong with a server


def test_an_unreachable_server_says_how_to_start_it():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: refuses connections
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DescriberConnectionError, match=f"{host}.*ollama serve"):
            OllamaDescriber(host=host)("river")


@pytest.mark.parametrize("host", ["ftp://127.0.0.1", "127.0.0.1:99999", "127.0.0.1:port"])
def test_a_host_that_is_no_address_is_a_connection_error(host):
    with pytest.raises(DescriberConnectionError, match="host="):
        OllamaDescriber(host=host, max_retries=0)("river")


def test_a_missing_model_says_how_to_pull_it(server):
    with pytest.raises(DescriberModelError, match=r"only: llama3.2:latest.*ollama pull qwen3:4b"):
        OllamaDescriber("qwen3:4b", host=server.host)("river")
    assert not server.questions


def test_a_model_removed_while_asking_says_how_to_pull_it(server, pauses):
    server.fail_next("404")
    with pytest.raises(DescriberModelError, match=r"ollama pull llama3\.2"):
        OllamaDescriber(host=server.host)("river")
    assert not pauses


def test_a_hanging_server_times_out_without_a_retry(server, pauses):
    server.fail_next("hang")
    with pytest.raises(DescriberTimeoutError, match=r"within timeout=0\.2 seconds"):
        OllamaDescriber(host=server.host, timeout=0.2)("river")
    assert len(server.questions) == 1 and not pauses


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang up"])
def test_passing_faults_are_retried_with_growing_pauses(server, pauses, fault):
    server.fail_next(fault, fault, fault)
    assert OllamaDescriber(host=server.host)("river", 1) == ["river seen from side 0"]
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("500", DescriberError, "status 500: the model runner has stopped.*log"),
        ("hang up", DescriberConnectionError, "ollama ps"),
        ("broken protocol", DescriberAnswerError, "did not answer as Ollama does.*ollama list"),
        ("broken JSON", DescriberAnswerError, r"""got '\{"descriptions": \["a blue'"""),
        ("cut off", DescriberAnswerError, "rambled on about class 'river'"),
        ("wrong layout", DescriberAnswerError, "got .*visual_features"),
        ("wrong type", DescriberAnswerError, "expected every description.* got int: 1"),
        ("no texts", DescriberAnswerError, "no description of class 'river'"),
        ("empty", DescriberAnswerError, "llama3.2 gave an empty answer for class 'river'"),
        ("deep JSON", DescriberAnswerError, r"expected \{.descriptions.*got .*\[\[\["),
        ("deep protocol", DescriberAnswerError, "did not answer as Ollama does.*recursion"),
        ("latin-1", DescriberAnswerError, "did not answer as Ollama does.*utf-8"),
        ("truncated", DescriberAnswerError, "did not answer as Ollama does.*ollama list"),
        ("half sent", DescriberConnectionError, "without sending complete message"),
        ("not done", DescriberAnswerError, "sent a part of an answer"),
        ("a book", DescriberAnswerError, "at most 10000 characters, got one of 10005"),
        ("endless", DescriberAnswerError, "sent more than 4194304 bytes.*host="),
        ("bomb", DescriberConnectionError, r"answer is compressed \(gzip\).*host="),
        ("page 502", DescriberError, "status 502 and an HTML page where JSON.*proxy"),
    ],
)
def test_a_fault_that_stays_is_named_after_the_retries(server, pauses, fault, error, message):
    server.fail_for("river", fault)
    with pytest.raises(error, match=message) as caught:
        OllamaDescriber(host=server.host, max_retries=1)("river")
    assert type(caught.value) is error
    assert len(server.questions) == 2 and pauses == [0.5]


def test_a_request_that_the_server_refuses_is_not_repeated(server, pauses):
    server.fail_next("400")
    with pytest.raises(DescriberError, match="status 400"):
        OllamaDescriber(host=server.host)("river")
    assert len(server.questions) == 1


@pytest.mark.parametrize("fault", ["drip body", "drip head", "drip status"])
def test_a_server_that_sends_a_byte_now_and_then_times_out(server, pauses, fault):
    server.fail_next(fault)
    started = time.monotonic()
    with pytest.raises(DescriberTimeoutError, match=r"within timeout=0\.3 seconds"):
        OllamaDescriber(host=server.host, timeout=0.3)("river")
    assert time.monotonic() - started < 2.0
    assert len(server.questions) == 1 and not pauses


def test_a_server_that_is_silent_before_the_answer_can_begin_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, encrypts none
        host = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DescriberConnectionError, match="cannot be reached"):
            OllamaDescriber(host=host, timeout=0.2)("river")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("drip body", DescriberTimeoutError),
        ("endless", DescriberAnswerError),
        ("deep protocol", DescriberAnswerError),
        ("page 404", DescriberError),
    ],
)
def test_the_list_of_models_is_bounded_too(server, fault, error):
    server.list_fault = fault
    with pytest.raises(error) as caught:
        OllamaDescriber(host=server.host, timeout=1.0)("river")
    assert type(caught.value) is error
    assert not server.questions


def test_the_proxies_of_the_environment_are_used(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.host)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(DescriberError, match="status 404"):  # no proxy knows its own paths
        OllamaDescriber(host="http://ollama.invalid:11434")("river")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("redirect", DescriberError, "redirects to http://127.0.0.1:9/api/chat.*as host="),
        ("other model", DescriberModelError, "asked for 'llama3.2', but 'gemma3:4b' answered"),
        ("page 404", DescriberError, "status 404 and an HTML page"),
        ("escapes", DescriberError, "status 400: gone See"),
    ],
)
def test_a_fault_that_does_not_pass_is_named_at_once(server, pauses, fault, error, message):
    server.fail_next(fault)
    with pytest.raises(error, match=message) as caught:
        OllamaDescriber(host=server.host)("river")
    assert type(caught.value) is error
    assert len(server.questions) == 1 and not pauses


def test_fewer_descriptions_than_asked_for_are_said_so(server, caplog):
    server.fail_next("one for all")
    assert OllamaDescriber(host=server.host)("river", 3) == ["a band"]
    assert "llama3.2 gave 1 different descriptions of class 'river', not 3" in caplog.text


def test_a_wrong_answer_is_asked_for_again_with_another_seed(server, pauses):
    server.fail_next("broken JSON", "no texts")
    OllamaDescriber(host=server.host, seed=5)("river", 1)
    assert [question["options"]["seed"] for question in server.questions] == [5, 6, 7]


def test_classes_answered_before_a_failure_are_kept(server, pauses):
    server.fail_for("lake", "empty")
    describer = OllamaDescriber(host=server.host, max_retries=0, n_jobs=1)
    with pytest.raises(DescriberAnswerError, match="of 3 classes were answered") as caught:
        describer.describe(["river", "lake", "sea"], 1)
    assert caught.value.descriptions["river"] == ["river seen from side 0"]
    assert "lake" not in caught.value.descriptions
    server.fail_for("lake", None)
    assert list(describer.describe(["river", "lake", "sea"], 1)) == ["river", "lake", "sea"]
    assert len(server.questions) == 4  # river once, lake twice, sea once


def test_a_server_without_models_says_so(server):
    server.models.clear()
    with pytest.raises(DescriberModelError, match=r"none at all.*ollama pull llama3\.2"):
        OllamaDescriber(host=server.host)("river")


# -- parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 0}, "'n' parameter of OllamaDescriber must be an int in the range"),
        ({"temperature": -1}, "'temperature' parameter of OllamaDescriber must be a float"),
        ({"timeout": 0}, "'timeout' parameter"),
        ({"seed": 0.5}, "'seed' parameter of OllamaDescriber must be"),
        ({"n_jobs": 0}, "'n_jobs' parameter"),
        ({"max_retries": -1}, "'max_retries' parameter"),
        ({"prompt": "What does it look like?"}, r"expected \{class_name\} in prompt"),
        ({"prompt": "{class_name}\ud800"}, r"expected text as prompt, got a lone surrogate"),
        ({"temperature": float("inf")}, "'temperature' parameter"),
        ({"timeout": 1e12}, "'timeout' parameter"),
    ],
)
def test_parameters_are_checked_before_anything_is_asked(server, parameters, message):
    with pytest.raises(ValueError, match=message):
        OllamaDescriber(host=server.host, **parameters)("river")
    assert not server.questions


NO_NAMES = [
    ("river", "expected class_names as an iterable of str, got str: 'river'"),
    (3, "got int: 3"),
    (["river", 3], "to be a str, got int: 3"),
    (["river", " "], "say something, got ' '"),
    (["river", "a\udcff"], r"got a lone surrogate \(U\+DCFF\)"),
    (["river", "a\0"], "got a NUL character"),
]


@pytest.mark.parametrize(("names", "message"), NO_NAMES)
@pytest.mark.parametrize("kind", ["ollama", "table", "any"])
def test_what_is_no_class_name_is_refused_before_anything_is_asked(server, names, message, kind):
    ask = {
        "ollama": OllamaDescriber(host=server.host).describe,
        "table": TableDescriber(TABLE).describe,
        "any": lambda names: describe_classes(lambda name, n: ["a text"], names),
    }
    with pytest.raises(ClassNamesError, match=message):
        ask[kind](names)
    assert not server.questions


def test_describers_are_parameters_like_others(server):
    describer = pickle.loads(pickle.dumps(OllamaDescriber(host=server.host)))
    assert len(describer.set_params(n=2)("river")) == 2
    assert clone(TableDescriber(TABLE)).table == TABLE


# -- tables


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_saved_table_is_read_back(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    save_descriptions(path, TABLE)
    assert load_descriptions(path) == TABLE
    assert TableDescriber(path).describe(["lake", "river"], 1) == {
        "lake": ["a dark blot"],
        "river": ["a winding blue band"],
    }
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_one_description_a_class_is_saved_as_a_whole(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    save_descriptions(path, {"river": "a winding blue band"})
    assert load_descriptions(path) == {"river": ["a winding blue band"]}


def test_a_failed_save_leaves_the_old_table(tmp_path):
    path = tmp_path / "table.json"
    save_descriptions(path, TABLE)
    with pytest.raises(TypeError):
        save_descriptions(path, {"river": [b"not a text"]})
    assert load_descriptions(path) == TABLE
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    path = tmp_path / "spreadsheet.csv"
    path.write_bytes(b"\xef\xbb\xbfclass_name,description\r\nriver,a blue band\r\n\r\n")
    assert load_descriptions(path) == {"river": ["a blue band"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "name,text\nriver,blue\n", r"expected the first line 'class_name,description'"),
        ("t.csv", "class_name,description\nriver,a,b\n", "line 2: expected 2 columns, got 3"),
        ("t.csv", "", "expected the first line"),
        ("t.json", "{", "cannot be read"),
        ("t.json", "[]", "expected an object of class names and lists of texts, got list"),
        ("t.json", '{"river": "blue"}', "list of str as the descriptions of class 'river'"),
        ("t.json", '{"river": []}', "no description of class 'river'"),
        ("t.json", '{"river": {"0": "blue"}}', r"t\.json: expected a list of str.*got dict"),
        ("t.json", '{"river": [1]}', r"t\.json: expected every .*'river' to be a str, got int"),
        ("t.json", '{"river": ["a"], "river": ["b"]}', r"each name once, got twice: \['river'\]"),
        ("t.json", '{"river": ["\\ud800"]}', r"class 'river', got a lone surrogate \(U\+D800\)"),
        ("t.json", '{"river": ["blue\\u0000"]}', "class 'river', got a NUL character"),
        ("t.json", '{"r\\udfff": ["a"]}', r"name of a class, got a lone surrogate \(U\+DFFF\)"),
        ("t.json", '{"": ["a"]}', "expected the name of a class, got ''"),
        ("t.json", '{"river": ' + "[" * 100_000, "nested too deeply.*save_descriptions"),
        ("t.json", json.dumps({"river": ["b" * 10_001]}), "at most 10000 characters, got one of"),
        ("t.csv", "class_name,description\nriver,a\0\n", "NUL"),
        ("t.csv", "class_name,description\n,a blue band\n", "the name of a class, got ''"),
        ("t.csv", 'class_name,description\nriver,"a\nlake,b\n', "unexpected end.*double quotes"),
        ("t.csv", f"class_name,description\nriver,{'b' * 200_000}\n", "field larger than"),
    ],
    ids=range(20),
)
def test_a_table_that_is_laid_out_otherwise_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DescriberAnswerError, match=message):
        TableDescriber(path)("river")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_refused(tmp_path, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes("class_name,description\nFluß,grün\n".encode(encoding))
    with pytest.raises(DescriberAnswerError, match=r"expected UTF-8, got .*Save it as UTF-8"):
        load_descriptions(path)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({1: ["a"]}, DescriberAnswerError, "str as the name of each class, got int: 1"),
        ({"river": ["a\0"]}, DescriberAnswerError, "the table: .*got a NUL character"),
        ({"river": 3}, DescriberAnswerError, "the table: expected a list of str.*got int"),
        (["river"], TypeError, "mapping of class names to lists of texts.*got list"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_a_table_of_something_else_is_refused(table, error, message):
    with pytest.raises(error, match=message):
        TableDescriber(table)("river")


@pytest.mark.parametrize("suffix", [".json", ".csv"])
@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"river": ["a\ud800"]}, ValueError, "class 'river', got a lone surrogate"),
        ({"river": ["a\0"]}, ValueError, "class 'river', got a NUL character"),
        ({"river": []}, ValueError, "no description of class 'river'"),
        ({"": ["a"]}, ValueError, "the name of a class, got ''"),
        ({"river": [1]}, TypeError, "as str, got int: 1"),
        ({1: ["a"]}, TypeError, "as str, got int: 1"),
    ],
)
def test_what_could_not_be_read_back_is_not_saved(tmp_path, suffix, table, error, message):
    with pytest.raises(error, match=message):
        save_descriptions(tmp_path / f"table{suffix}", table)
    assert not list(tmp_path.iterdir())


def test_another_suffix_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.json or \.csv, got .*table\.txt"):
        save_descriptions(tmp_path / "table.txt", TABLE)
    with pytest.raises(FileNotFoundError):
        TableDescriber(tmp_path / "table.csv")("river")


def test_a_class_that_the_table_lacks_is_named_with_its_neighbours():
    with pytest.raises(DescriberAnswerError, match=r"no class 'rivers'.*close to it: \['river'\]"):
        TableDescriber(TABLE)("rivers", 2)


# -- any describer


def test_any_callable_describes():
    calls = []

    def describer(class_name, n):
        calls.append((class_name, n))
        return tuple(f"{class_name} {i}" for i in range(n + 3))

    assert describe_classes(describer, ["a", "b"], 2) == {"a": ["a 0", "a 1"], "b": ["b 0", "b 1"]}
    assert calls == [("a", 2), ("b", 2)]


def test_an_object_with_describe_is_asked_once():
    class Batch:
        calls = 0

        def describe(self, class_names, n):
            self.calls += 1
            return {name: [f"{name}  look"] for name in class_names}

    batch = Batch()
    assert describe_classes(batch, iter(["a", "b"]), 2) == {"a": ["a look"], "b": ["b look"]}
    assert batch.calls == 1


@pytest.mark.parametrize("describer", [TABLE, "table.json", None], ids=["dict", "path", "None"])
def test_what_is_no_describer_is_refused_with_advice(describer):
    with pytest.raises(TypeError, match="TableDescriber"):
        describe_classes(describer, ["river"])


def test_a_class_in_place_of_a_describer_is_refused():
    with pytest.raises(TypeError, match=r"the class OllamaDescriber.*OllamaDescriber\(\.\.\.\)"):
        describe_classes(OllamaDescriber, ["river"])


def test_descriptions_that_fit_another_class_are_said_so(caplog):
    table = {
        "king crab": ["a red king crab", "long legs"],
        "crab": ["Long legs", "wider than a King Crab"],
        "sea": ["blue up to the horizon", "where the seaside is"],
    }
    assert describe_classes(TableDescriber(table), table) == table
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "classes 'king crab' and 'crab' share the description 'Long legs'",
        "a description of class 'crab' names ['king crab']: 'wider than a King Crab'",
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("a blue band", "list of str as the descriptions of class 'river', got str"),
        (None, "got NoneType"),
        ([None], "to be a str, got NoneType"),
        ([], "no description of class 'river'"),
        (["\x07 \n"], "no description of class 'river'"),
    ],
)
def test_an_answer_that_is_no_list_of_texts_is_refused(answer, message):
    with pytest.raises(DescriberAnswerError, match=message):
        describe_classes(lambda name, n: answer, ["river"])


def test_a_describer_that_fails_is_named_with_the_class_and_what_came_before():
    def describer(class_name, n):
        return {"a": ["first"]}[class_name]

    with pytest.raises(DescriberError, match="describer failed for class 'b': KeyError") as caught:
        describe_classes(describer, ["a", "b"])
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.descriptions == {"a": ["first"]}


def test_an_object_that_leaves_a_class_out_is_refused():
    class Partial:
        def describe(self, class_names, n):
            return {"a": ["first"]}

    with pytest.raises(DescriberAnswerError, match="no description of class 'b'") as caught:
        describe_classes(Partial(), ["a", "b"])
    assert caught.value.descriptions == {"a": ["first"]}


def test_the_number_asked_for_is_checked():
    with pytest.raises(ValueError, match="n == 0, must be >= 1"):
        describe_classes(TableDescriber(TABLE), ["river"], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\tblue \r\n band ", "a blue band"),
        ("a \x1b[31mred\x1b[0m roof\x00\x07", "a red roof"),
        ("left\u202eright\u200b\ufeff", "leftright"),
        ("1. a blue band", "a blue band"),
        ("- a blue band", "a blue band"),
        ("12) a blue band", "a blue band"),
        ("3 dots above a line", "3 dots above a line"),
        ("größer als 20 µm – 日本", "größer als 20 µm – 日本"),
    ],
)
def test_texts_are_cleaned(text, expected):
    assert clean_descriptions([text], "river") == [expected]


def test_long_texts_are_cut_between_words():
    words = "blue " * 100
    assert clean_descriptions([words], "river") == [("blue " * 60).strip()]
    assert clean_descriptions(["x" * 1000], "river") == ["x" * 300]
    assert clean_descriptions(["x" * 300], "river") == ["x" * 300]


def test_repetitions_do_not_count():
    texts = ["a blue band", "A blue  band", "", "a brown band", "a green band"]
    assert clean_descriptions(texts, "river", 2) == ["a blue band", "a brown band"]


# -- the tables that come with the data sets


@pytest.mark.parametrize("load", [load_digits, load_handwriting])
def test_the_shipped_tables_describe_each_class_by_what_is_seen(load):
    data = load(split="test")
    table = describe_classes(TableDescriber(data.descriptions), data.class_names, 6)
    assert table == data.descriptions  # nothing in them has to be cleaned
    everything = [text for texts in table.values() for text in texts]
    assert len(set(everything)) == len(everything)
    for class_name, texts in table.items():
        assert 4 <= len(texts) <= 6
        naming = {"letter", "digit", "capital", class_name.split()[-1]} - {"a"}
        for text in texts:
            words = text.split()
            assert 5 <= len(words) <= 18
            assert text == text.lower() and text[-1].isalnum()
            assert not naming & set(words)
