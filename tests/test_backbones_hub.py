"""Models come from repositories of the Hub, once, and from the cache without a network."""

import json
import pickle
import time

import numpy as np
import pytest
import torch
from hub_server import CONFIG, HubServer, model_files, random_weights
from huggingface_hub import constants
from numpy.testing import assert_allclose
from open_clip.model import CLIP
from tiny_models import RANDOM_CLIP

from capkit import CLIPEncoder
from capkit.backbones import hub, load_backbone, registry
from capkit.exceptions import BackboneError, BackboneMismatchError, BackboneNotFoundError

NAME = "hf-hub:lab/plants"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Hub on this computer with one model, an empty cache, and nothing loaded."""
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        point_to(server.endpoint, monkeypatch)
        server.put("lab/plants", model_files())
        yield server


def point_to(endpoint, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def cut(server, monkeypatch):
    """Takes the network away, and forgets what is loaded."""

    def cut():
        registry._loaded.clear()
        server.requests.clear()
        point_to("http://127.0.0.1:1", monkeypatch)

    return cut


def downloads(server):
    return [
        path.rpartition("/")[2]
        for method, path in server.requests
        if method == "GET" and "/resolve/" in path
    ]


def random_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIP(**RANDOM_CLIP).eval()


# -- what is loaded


def test_a_repository_is_fetched_once_and_computes_what_open_clip_does(server):
    backbone = load_backbone(NAME, device="cpu")
    assert load_backbone(NAME, device="cpu") is backbone
    assert downloads(server) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert backbone.name == NAME
    assert (backbone.preprocess.mean, backbone.preprocess.resize_mode) == (
        [0.4, 0.5, 0.6],
        "squash",
    )
    texts = ["a photo of a fern", "moss"]
    expected = random_model().encode_text(backbone.tokenize(texts), normalize=True).detach()
    assert_allclose(backbone.encode_texts(texts), expected, atol=1e-6)


def test_weights_saved_by_torch_are_taken_where_there_are_no_others(server, tmp_path):
    torch.save(random_model().state_dict(), tmp_path / "weights")
    files = {
        "open_clip_config.json": json.dumps(CONFIG).encode(),
        "open_clip_pytorch_model.bin": (tmp_path / "weights").read_bytes(),
    }
    server.put("lab/pickled", files)
    backbone = load_backbone("hf-hub:lab/pickled", device="cpu")
    expected = random_model().encode_text(backbone.tokenize(["moss"]), normalize=True).detach()
    assert_allclose(backbone.encode_texts(["moss"]), expected, atol=1e-6)


def test_a_revision_is_another_model(server):
    server.put("lab/plants", model_files(seed=1), ("v2", "pr/1"))
    main, tagged = load_backbone(NAME, device="cpu"), load_backbone(f"{NAME}@v2", device="cpu")
    assert tagged.name == f"{NAME}@v2"
    assert main.identity != tagged.identity
    assert load_backbone(f"{NAME}@pr/1", device="cpu").identity == tagged.identity
    expected = random_model(1).encode_text(tagged.tokenize(["moss"]), normalize=True).detach()
    assert_allclose(tagged.encode_texts(["moss"]), expected, atol=1e-6)


def test_configuration_and_weights_are_of_one_commit(server, monkeypatch):
    read, old, new = hub.read_config, random_weights(0), model_files(seed=1)

    def read_and_push(path):
        server.put("lab/plants", new)  # the branch moves on between the two downloads
        return read(path)

    monkeypatch.setattr(hub, "read_config", read_and_push)
    backbone = load_backbone(NAME, device="cpu")
    assert server.repositories["lab/plants"]["main"] is new
    assert hub.find_on_hub(NAME, None).weights.read_bytes() == old
    expected = random_model(0).encode_text(backbone.tokenize(["moss"]), normalize=True).detach()
    assert_allclose(backbone.encode_texts(["moss"]), expected, atol=1e-6)


def test_a_copy_of_the_repository_is_the_same_backbone(server, tmp_path):
    for name, content in model_files().items():
        (tmp_path / name).write_bytes(content)
    copy = load_backbone(f"local-dir:{tmp_path}", device="cpu")
    assert copy.identity == load_backbone(NAME, device="cpu").identity


def test_the_encoder_takes_the_name_and_is_pickled_by_it(server):
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    encoder = CLIPEncoder(NAME, class_names=["fern", "moss"], device="cpu").fit(images)
    assert encoder.backbone_name_ == NAME
    registry._loaded.clear()
    again = pickle.loads(pickle.dumps(encoder)).transform(images)
    assert_allclose(again.image_features, encoder.transform(images).image_features)


# -- without a network


@pytest.mark.parametrize("name", [NAME, f"{NAME}@v2"])
def test_what_is_in_the_cache_needs_no_network(server, cut, name):
    server.put("lab/plants", model_files(seed=1), ("v2",))
    before = load_backbone(name, device="cpu")
    cut()
    after = load_backbone(name, device="cpu")
    assert after is not before and after.identity == before.identity
    assert server.requests == []


def test_a_commit_in_the_cache_is_found_by_its_hash(server, cut):
    commit = server.put("lab/plants", model_files())
    before = load_backbone(NAME, device="cpu")
    cut()
    assert load_backbone(f"{NAME}@{commit}", device="cpu").identity == before.identity


def test_offline_is_said_at_once_with_what_can_be_done(server, cut):
    cut()
    start = time.monotonic()
    message = (
        r"open_clip_config\.json of 'hf-hub:lab/plants' is not in the local cache and could not "
        r"be fetched: .*Connect to the network once, .*local-dir:FOLDER"
    )
    with pytest.raises(BackboneNotFoundError, match=message):
        load_backbone(NAME)
    assert time.monotonic() - start < 3


def test_a_download_that_stopped_half_way_is_taken_up(server, cut, monkeypatch):
    weights = server.repositories["lab/plants"]["main"].pop("open_clip_model.safetensors")
    with pytest.raises(BackboneNotFoundError, match=r"has no open_clip_model\.safetensors or"):
        load_backbone(NAME)
    endpoint = constants.ENDPOINT
    cut()
    with pytest.raises(BackboneNotFoundError, match=r"open_clip_model\.safetensors or .* is not"):
        load_backbone(NAME)
    point_to(endpoint, monkeypatch)
    server.repositories["lab/plants"]["main"]["open_clip_model.safetensors"] = weights
    assert load_backbone(NAME, device="cpu").name == NAME
    assert downloads(server) == ["open_clip_model.safetensors"]


def test_another_folder_can_be_the_cache(server, tmp_path):
    load_backbone(NAME, device="cpu", cache_dir=tmp_path / "mine")
    assert list((tmp_path / "mine").rglob("open_clip_model.safetensors"))
    assert not (tmp_path / "cache").exists()


# -- names and repositories that are not right


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:", "expected hf-hub:ORGANISATION/NAME"),
        ("hf-hub:a/b/c", "expected hf-hub:ORGANISATION/NAME"),
        ("hf-hub:lab/plants@", "expected a branch, a tag or a commit behind the @"),
        ("hf-hub:lab/trees", "no repository 'lab/trees' that you may see"),
        ("hf-hub:lab/plants@v9", "'lab/plants' has no branch, tag or commit 'v9'"),
        ("lab/plants", "Or 'hf-hub:lab/plants', on the Hugging Face Hub"),
    ],
)
def test_a_name_without_a_model_is_said(server, name, message):
    with pytest.raises(BackboneNotFoundError, match=message):
        load_backbone(name)


def test_a_repository_of_another_layout_is_said(server):
    server.put("lab/transformers", {"config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(BackboneNotFoundError, match="no model in open_clip's layout: it has no"):
        load_backbone("hf-hub:lab/transformers")


# -- a repository runs no code


def put_model(server, text_cfg=None, **files):
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["text_cfg"].update(text_cfg or {})
    content = {**model_files(), "open_clip_config.json": json.dumps(config).encode(), **files}
    server.put("lab/evil", content)


def test_options_that_make_a_tokenizer_run_code_are_refused(server):
    put_model(server, {"tokenizer_kwargs": {"trust_remote_code": True}})
    with pytest.raises(BackboneMismatchError, match="gives its tokenizer trust_remote_code"):
        load_backbone("hf-hub:lab/evil")


def test_weights_that_hold_code_are_refused(server, tmp_path):
    torch.save(random_model(), tmp_path / "model")
    config = json.dumps(CONFIG).encode()
    weights = (tmp_path / "model").read_bytes()
    server.put(
        "lab/evil", {"open_clip_config.json": config, "open_clip_pytorch_model.bin": weights}
    )
    with pytest.raises(BackboneError, match="holds more than tensors"):
        load_backbone("hf-hub:lab/evil")


class RecordedTokenizer:
    """Stands in for open_clip's wrapper of transformers; knows what is in the cache."""

    calls: list = []
    cached = False

    def __init__(self, source, *, local_files_only=False, **options):
        self.calls.append((source, local_files_only, options))
        if local_files_only and not self.cached:
            raise OSError("not in the cache")

    def __call__(self, texts):
        return torch.zeros(len(texts), 32, dtype=torch.int64)


@pytest.fixture
def tokenizer(monkeypatch):
    monkeypatch.setattr("capkit.backbones.loading.HFTokenizer", RecordedTokenizer)
    monkeypatch.setattr(RecordedTokenizer, "calls", [])
    return RecordedTokenizer


@pytest.mark.parametrize("source", ["lab/evil", "lab/another"])
def test_no_tokenizer_may_bring_code_along(server, tokenizer, source):
    put_model(server, {"hf_tokenizer_name": source})
    load_backbone("hf-hub:lab/evil", device="cpu")
    assert [local for _, local, _ in tokenizer.calls] == [True, False]
    for given, _, options in tokenizer.calls:
        assert given == source and options["trust_remote_code"] is False


def test_a_repository_s_own_tokenizer_is_of_the_same_commit(server, tokenizer):
    put_model(server, {"hf_tokenizer_name": "lab/evil"})
    load_backbone("hf-hub:lab/evil", device="cpu")
    (commit,) = [one for one in server.repositories["lab/evil"] if one != "main"]
    assert all(options["revision"] == commit for _, _, options in tokenizer.calls)


def test_another_repository_s_tokenizer_is_that_of_its_main_branch(server, tokenizer):
    put_model(server, {"hf_tokenizer_name": "lab/another"})
    load_backbone("hf-hub:lab/evil", device="cpu")
    assert not any("revision" in options for _, _, options in tokenizer.calls)


def test_a_tokenizer_in_the_cache_needs_no_network(server, cut, tokenizer, monkeypatch):
    put_model(server, {"hf_tokenizer_name": "lab/another"})
    load_backbone("hf-hub:lab/evil", device="cpu")
    cut()
    tokenizer.calls.clear()
    message = "tokenizer 'lab/another' .* not in the local cache, and the Hub cannot be asked"
    with pytest.raises(BackboneNotFoundError, match=message):
        load_backbone("hf-hub:lab/evil")
    assert [local for _, local, _ in tokenizer.calls] == [True]  # and not again and again
    monkeypatch.setattr(tokenizer, "cached", True)
    load_backbone("hf-hub:lab/evil", device="cpu")


@pytest.fixture
def text_model(monkeypatch):
    """Stands in for transformers' AutoConfig; the kind of text model that it finds."""

    class AutoConfig:
        calls: list = []
        model_type = "evil"

        @classmethod
        def from_pretrained(cls, source, **options):
            cls.calls.append((source, options))
            return cls

    monkeypatch.setattr("open_clip.hf_model.AutoConfig", AutoConfig, raising=False)
    return AutoConfig


def test_a_text_model_that_brings_code_along_is_refused(server, text_model, monkeypatch):
    put_model(server, {"hf_model_name": "lab/text"})
    with pytest.raises(
        BackboneMismatchError, match=r"'lab/text' .* is of the kind 'evil'; .*bert"
    ):
        load_backbone("hf-hub:lab/evil")
    asked = {"trust_remote_code": False, "local_files_only": True}
    assert text_model.calls == [("lab/text", asked)]

    def refuse(*args, **options):
        raise ValueError("contains custom code: pass trust_remote_code=True to run it")

    monkeypatch.setattr(text_model, "from_pretrained", refuse)
    with pytest.raises(BackboneError, match="comes with code of its own, which is nev") as caught:
        load_backbone("hf-hub:lab/evil")
    assert "trust_remote_code" not in str(caught.value)


def test_a_text_model_without_transformers_is_said(server, monkeypatch):
    monkeypatch.delattr("open_clip.hf_model.AutoConfig", raising=False)
    put_model(server, {"hf_model_name": "lab/text"})
    with pytest.raises(BackboneError, match=r"'lab/text' .* pip install transformers"):
        load_backbone("hf-hub:lab/evil")
