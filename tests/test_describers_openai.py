"""OpenAIDescriber against a server on loopback, and what is kept of its key: nothing."""

import json
import pickle
import shutil
import socket
import ssl
import subprocess
import threading
import time

import numpy as np
import pytest
from ollama_server import OllamaServer
from sklearn.base import clone

from capkit import CAPClassifier, ConceptAligner
from capkit.describers import OllamaDescriber, OpenAIDescriber
from capkit.exceptions import (
    DescriberAnswerError,
    DescriberConnectionError,
    DescriberError,
    DescriberModelError,
    DescriberTimeoutError,
)
from capkit.tuning import AdapterTuning

KEY = "sk-4f1d9c72aa"


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


def describer_of(server, **parameters):
    return OpenAIDescriber(server.base_url, "llama3.2", **parameters)


# -- asking


def test_each_class_is_described(server):
    descriptions = describer_of(server).describe(["river", "lake"], 2)
    assert descriptions == {
        "river": ["river seen from side 0", "river seen from side 1"],
        "lake": ["lake seen from side 0", "lake seen from side 1"],
    }
    assert list(descriptions) == ["river", "lake"]


def test_it_says_what_ollamas_protocol_says(server):
    of_ollama = OllamaDescriber(host=server.host).describe(["river", "lake"], 3)
    assert describer_of(server).describe(["river", "lake"], 3) == of_ollama


def test_the_question_asks_for_a_strict_json_schema(server):
    describer_of(server, temperature=0.25, seed=11)("river", 5)
    (question,) = server.questions
    assert question["model"] == "llama3.2"
    assert '"river"' in question["messages"][-1]["content"]
    assert (question["temperature"], question["seed"], question["stream"]) == (0.25, 11, False)
    assert question["max_tokens"] == 64 * 5 + 128
    assert question["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "descriptions",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "descriptions": {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 5,
                        "maxItems": 5,
                    }
                },
                "required": ["descriptions"],
                "additionalProperties": False,
            },
        },
    }


def test_the_layout_is_told_in_words_too(server):
    describer_of(server)("river", 1)
    said = server.questions[0]["messages"][0]["content"]
    assert "JSON" in said and '"descriptions"' in said and "list of texts" in said


def test_seed_none_is_left_to_the_server(server):
    describer_of(server, seed=None)("river", 1)
    assert "seed" not in server.questions[0]


def test_a_slash_behind_the_address_is_no_other_address(server, tmp_path):
    describer_of(server, cache_dir=tmp_path)("river", 1)
    again = OpenAIDescriber(f"{server.base_url}/", "llama3.2", cache_dir=tmp_path)
    assert again("river", 1) == ["river seen from side 0"]
    assert len(server.questions) == 1


def test_classes_are_asked_for_in_parallel(server):
    server.meeting = threading.Barrier(3, timeout=10)  # breaks unless three requests meet
    describer_of(server, n_jobs=3).describe([f"class {i}" for i in range(6)], 1)
    assert server.most_at_once == 3


@pytest.mark.parametrize("status", [400, 422, 500])  # the last one is llama-cpp-python's
def test_a_server_that_knows_no_schema_is_asked_for_an_object_from_then_on(server, pauses, status):
    server.layouts, server.layout_status = {"json_object"}, status
    describer = describer_of(server, n_jobs=1)
    assert describer.describe(["river", "lake"], 1)["lake"] == ["lake seen from side 0"]
    layouts = [question["response_format"] for question in server.questions]
    assert [layout["type"] for layout in layouts] == ["json_schema", "json_object", "json_object"]
    assert layouts[1]["schema"] == layouts[0]["json_schema"]["schema"]
    assert not pauses


def test_a_server_that_knows_neither_layout_is_named_with_those_that_do(server, pauses):
    server.layouts = {"text"}
    with pytest.raises(
        DescriberError, match=r"json_schema is not.*json_object is.*vLLM"
    ) as caught:
        describer_of(server)("river")
    assert type(caught.value) is DescriberError
    assert len(server.questions) == 2 and not pauses


def test_another_model_that_answers_is_said_so_once(server, caplog):
    server.fail_next("other model", "other model")
    found = describer_of(server, n_jobs=1).describe(["river", "lake"], 1)
    assert found == {"river": ["a blue band"], "lake": ["a blue band"]}
    warning = "was asked for 'llama3.2', but says that 'gemma3:4b' answered"
    assert caplog.text.count(warning) == 1


def test_a_longer_name_of_the_same_model_is_no_other_model(server, caplog):
    server.models["llama"] = server.models["llama3.2"] = "digest"
    OpenAIDescriber(server.base_url, "llama")("river", 1)
    assert "was asked for" not in caplog.text


# -- keeping answers


def test_an_answer_is_asked_for_once_by_an_object_and_its_clones(server):
    describer = describer_of(server)
    first = describer("river", 2)
    assert clone(clone(describer))("river", 2) == describer("river", 2) == first
    assert len(server.questions) == 1


def test_kept_answers_need_neither_server_nor_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with OllamaServer() as server:
        options = {"cache_dir": tmp_path, "api_key_env": "SOME_KEY"}
        expected = describer_of(server, **options).describe(["river", "lake"], 2)
    monkeypatch.delenv("SOME_KEY")
    describer = describer_of(server, **options)
    assert describer.describe(["lake", "river"], 2) == expected
    monkeypatch.setenv("SOME_KEY", KEY)
    with pytest.raises(DescriberConnectionError, match="cannot be reached") as caught:
        describer.describe(["lake", "sea"], 2)
    assert caught.value.descriptions == {"lake": expected["lake"]}


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.1}, {"seed": 1}, {"prompt": "Draw {class_name}"}, {"n": 3}, {"model": "b"}],
    ids=str,
)
def test_whatever_changes_the_answer_is_in_the_key(server, tmp_path, change):
    server.models["b"] = "digest"
    describer = describer_of(server, cache_dir=tmp_path)
    describer("river")
    clone(describer).set_params(**change)("river")
    assert len(server.questions) == 2


def test_answers_of_one_server_are_not_those_of_another(server, tmp_path):
    with OllamaServer() as other:
        other.fail_next("one for all")
        assert describer_of(other, cache_dir=tmp_path)("river", 1) == ["a band"]
    assert describer_of(server, cache_dir=tmp_path)("river", 1) == ["river seen from side 0"]


def test_answers_in_both_protocols_are_kept_apart(server, tmp_path):
    describer_of(server, cache_dir=tmp_path)("river", 1)
    OllamaDescriber(host=server.host, cache_dir=tmp_path)("river", 1)
    assert len(server.questions) == 2
    assert len(list((tmp_path / "descriptions").iterdir())) == 2


def test_a_kept_answer_of_which_a_letter_has_changed_is_asked_for_again(server, tmp_path, caplog):
    expected = describer_of(server, cache_dir=tmp_path)("river", 2)
    (path,) = (tmp_path / "descriptions").iterdir()
    path.write_text(path.read_text().replace("seen from side 1", "seen from side 7"))
    assert describer_of(server, cache_dir=tmp_path)("river", 2) == expected
    assert "not what was written" in caplog.text


# -- what goes wrong with a server


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("500", DescriberError, "status 500: the model runner has stopped.*log"),
        ("429", DescriberError, "status 429"),
        ("503", DescriberError, "status 503"),
        ("hang up", DescriberConnectionError, r"curl http.*/v1/models"),
        ("broken protocol", DescriberAnswerError, "did not answer as a server of OpenAI's"),
        ("no choices", DescriberAnswerError, r"expected choices\[0\]\.message\.content"),
        ("parts of a text", DescriberAnswerError, "expected a text as content"),
        ("broken JSON", DescriberAnswerError, r"""got '\{"descriptions": \["a blue'.*vLLM"""),
        ("fenced", DescriberAnswerError, "got '```json.*keeps response_format"),
        ("twice", DescriberAnswerError, r"expected \{.descriptions.*got .*a band"),
        ("cut off", DescriberAnswerError, "rambled on about class 'river'"),
        ("wrong layout", DescriberAnswerError, "got .*visual_features"),
        ("wrong type", DescriberAnswerError, "expected every description.* got int: 1"),
        ("no texts", DescriberAnswerError, "no description of class 'river'"),
        ("empty", DescriberAnswerError, "llama3.2 gave an empty answer for class 'river'"),
        ("deep JSON", DescriberAnswerError, r"expected \{.descriptions.*got .*\[\[\["),
        ("deep protocol", DescriberAnswerError, "did not answer as.*recursion"),
        ("latin-1", DescriberAnswerError, "did not answer as.*utf-8"),
        ("truncated", DescriberAnswerError, "did not answer as"),
        ("half sent", DescriberConnectionError, "without sending complete message"),
        ("a book", DescriberAnswerError, "at most 10000 characters, got one of 10005"),
        ("endless", DescriberAnswerError, "sent more than 4194304 bytes.*base_url="),
        ("bomb", DescriberConnectionError, r"answer is compressed \(gzip\).*base_url="),
        ("page 502", DescriberError, "status 502 and an HTML page where JSON.*proxy"),
    ],
)
def test_a_fault_that_may_pass_is_named_after_the_retries(server, pauses, fault, error, message):
    server.fail_for("river", fault)
    with pytest.raises(error, match=message) as caught:
        describer_of(server, max_retries=1)("river")
    assert type(caught.value) is error
    assert len(server.questions) == 2 and pauses == [0.5]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("401", DescriberError, "nobody in without the right key.*api_key_env="),
        ("403", DescriberError, "nobody in without the right key.*api_key_env="),
        ("404", DescriberModelError, "has no model 'llama3.2': the model .*/v1/models"),
        ("redirect", DescriberError, r"redirects to http://127\.0\.0\.1:9/v1/.*as base_url="),
        ("page 404", DescriberError, "status 404 and an HTML page"),
        ("413", DescriberError, "status 413"),
    ],
)
def test_a_fault_that_does_not_pass_is_named_at_once(server, pauses, fault, error, message):
    server.fail_next(fault)
    with pytest.raises(error, match=message) as caught:
        describer_of(server)("river")
    assert type(caught.value) is error
    assert len(server.questions) == 1 and not pauses


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang up", "empty"])
def test_passing_faults_are_retried_with_growing_pauses(server, pauses, fault):
    server.fail_next(fault, fault, fault)
    assert describer_of(server, seed=5)("river", 1) == ["river seen from side 0"]
    assert pauses == [0.5, 1.0, 2.0]
    assert [question["seed"] for question in server.questions] == [5, 6, 7, 8]


def test_an_unknown_model_is_named(server):
    with pytest.raises(DescriberModelError, match=r"no model 'qwen3': model 'qwen3' not found"):
        OpenAIDescriber(server.base_url, "qwen3")("river")


def test_an_address_without_v1_is_said_so(server):
    with pytest.raises(DescriberError, match=r"knows no /chat/completions.*most end in /v1"):
        OpenAIDescriber(server.host, "llama3.2")("river")


@pytest.mark.parametrize("fault", ["hang", "drip body", "drip head", "drip status"])
def test_a_server_without_an_end_times_out_without_a_retry(server, pauses, fault):
    server.fail_next(fault)
    started = time.monotonic()
    with pytest.raises(DescriberTimeoutError, match=r"within timeout=0\.3 seconds"):
        describer_of(server, timeout=0.3)("river")
    assert time.monotonic() - started < 2.0
    assert len(server.questions) == 1 and not pauses


def test_an_unreachable_server_says_how_to_start_it():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: refuses connections
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(DescriberConnectionError, match=f"{address} cannot be.*llama-server"):
            OpenAIDescriber(address, "llama3.2", max_retries=0)("river")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    certificate, private = tmp_path / "certificate.pem", tmp_path / "private.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    extension = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", private, "-out", certificate]
    command = ["openssl", "req", *options, *extension, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    with OllamaServer() as server:
        server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
        address = server.base_url.replace("http:", "https:")
        with pytest.raises(DescriberConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            OpenAIDescriber(address, "llama3.2", max_retries=0)("river")
        assert not server.questions


def test_classes_answered_before_a_failure_are_kept(server, pauses):
    server.fail_for("lake", "empty")
    describer = describer_of(server, max_retries=0, n_jobs=1)
    with pytest.raises(DescriberAnswerError, match="of 3 classes were answered") as caught:
        describer.describe(["river", "lake", "sea"], 1)
    assert caught.value.descriptions["river"] == ["river seen from side 0"]
    assert "lake" not in caught.value.descriptions


# -- parameters


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8080/v1", "ftp://127.0.0.1/v1", "http://", "http://h:port/v1", "http://[::1/v1"],
)
def test_what_is_no_address_is_a_connection_error(address):
    with pytest.raises(DescriberConnectionError, match="expected an address such as http"):
        OpenAIDescriber(address, "llama3.2", max_retries=0)("river")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 0}, "'n' parameter of OpenAIDescriber must be an int in the range"),
        ({"base_url": None}, "'base_url' parameter of OpenAIDescriber must be an instance of"),
        ({"model": 3}, "'model' parameter"),
        ({"api_key_env": 3}, "'api_key_env' parameter"),
        ({"temperature": -1}, "'temperature' parameter"),
        ({"prompt": "What does it look like?"}, r"expected \{class_name\} in prompt"),
    ],
)
def test_parameters_are_checked_before_anything_is_asked(server, parameters, message):
    with pytest.raises(ValueError, match=message):
        describer_of(server).set_params(**parameters)("river")
    assert not server.questions


def test_it_is_a_parameter_of_an_aligner_like_others(server):
    aligner = ConceptAligner(describer=describer_of(server)).set_params(describer__n=2)
    assert len(clone(aligner).describer("river")) == 2


# -- the key


@pytest.fixture
def keyed(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", f"{KEY}\n")  # as `export SOME_KEY=$(cat file)` may leave it
    return describer_of(server, api_key_env="SOME_KEY", max_retries=0)


def test_the_key_is_sent_as_a_bearer_token(keyed, server):
    keyed("river", 1)
    describer_of(server)("lake", 1)
    assert server.keys == [f"Bearer {KEY}", None]


def test_the_key_is_read_when_the_server_is_asked(keyed, server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "another")
    keyed("river", 1)
    assert server.keys == ["Bearer another"]


def test_the_key_is_in_nothing_that_is_shown_or_kept(keyed, tmp_path):
    keyed.set_params(cache_dir=tmp_path / "cache").describe(["river", "lake"], 2)
    told = [repr(keyed), str(keyed.get_params()), repr(vars(keyed)), keyed._repr_html_()]
    assert not any(KEY in text for text in told)
    assert KEY.encode() not in pickle.dumps(keyed)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any(KEY.encode() in path.read_bytes() for path in files)


@pytest.mark.filterwarnings("ignore")  # the model is random: nothing it predicts is confident
def test_the_key_is_in_no_saved_model(keyed, server, tmp_path, random_backbone):
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    tuning = AdapterTuning(epochs=1, steps_per_epoch=1)
    model = CAPClassifier(
        backbone=random_backbone, tuning=tuning, describer=keyed, t=2, random_state=0
    )
    model.fit(images, class_names=["river", "lake", "sea"])
    assert f"Bearer {KEY}" in server.keys
    model.save(tmp_path / "model.capkit")
    assert KEY.encode() not in (tmp_path / "model.capkit").read_bytes()
    assert KEY.encode() not in pickle.dumps(model)


@pytest.mark.parametrize("fault", ["key told", "500", "hang up", "redirect", "hang", "wrong type"])
def test_the_key_is_in_no_error_nor_in_the_log(keyed, server, pauses, caplog, fault):
    caplog.set_level("DEBUG")
    server.fail_for("river", fault)
    keyed.set_params(max_retries=1, timeout=0.5)
    with pytest.raises(DescriberError) as caught:
        keyed("river")
    assert server.keys[0] == f"Bearer {KEY}"
    assert KEY not in str(caught.value) and KEY not in caplog.text
    assert KEY.encode() not in pickle.dumps(caught.value)


def test_what_a_server_says_of_the_key_is_blotted_out(keyed, server):
    server.fail_next("key told")
    with pytest.raises(DescriberError, match=r"Bearer \[key\] is wrong"):
        keyed("river")


@pytest.mark.parametrize("value", [None, "", " "], ids=["unset", "empty", "blank"])
def test_a_key_given_for_the_name_of_its_variable_is_refused_and_not_repeated(
    server, monkeypatch, value
):
    if value is not None:
        monkeypatch.setenv(KEY, value)
    with pytest.raises(ValueError, match="name of an environment variable") as caught:
        describer_of(server, api_key_env=KEY)("river")
    assert KEY not in str(caught.value)
    assert not server.questions


@pytest.mark.parametrize("value", [f"{KEY} b", f"{KEY}\nb", f"{KEY}ä"], ids=["blank", "line", "ä"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(keyed, server, monkeypatch, value):
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match="key alone") as caught:
        keyed("river")
    assert KEY not in str(caught.value)
    assert not server.questions


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{KEY}@h/v1",
        f"http://{KEY}@h:p/v1",
        f"http://h/v1?key={KEY}",
        f"http://h/#{KEY}",
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(tmp_path, address):
    with pytest.raises(DescriberConnectionError, match="api_key_env=") as caught:
        OpenAIDescriber(address, "llama3.2", cache_dir=tmp_path)("river")
    assert KEY not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_key_that_would_go_unencrypted_is_warned_of(keyed, server, caplog, monkeypatch):
    keyed("river", 1)
    assert "unencrypted" not in caplog.text
    monkeypatch.setenv("HTTP_PROXY", server.host)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(DescriberError):
        keyed.set_params(base_url="http://models.invalid/v1")("lake")
    assert "the key goes to models.invalid unencrypted; use https" in caplog.text


def test_the_file_of_an_answer_says_where_it_is_from(server, tmp_path):
    describer_of(server, cache_dir=tmp_path)("river", 1)
    (path,) = (tmp_path / "descriptions").iterdir()
    record = json.loads(path.read_text())
    assert record["model"] == f"llama3.2 at {server.base_url}"
    assert record["descriptions"] == ["river seen from side 0"]
