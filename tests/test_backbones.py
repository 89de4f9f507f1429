"""Backbones are found by name, loaded once, and refused with the reason."""

import json
import pickle
import threading
import time
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from numpy.testing import assert_allclose
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from capkit.backbones import hub, list_backbones, load_backbone, registry
from capkit.backbones.files import BackboneFiles
from capkit.backbones.stem import ConvStem
from capkit.exceptions import BackboneError, BackboneMismatchError, BackboneNotFoundError

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
TEXTS = ["a photo of a cat", "a photo of a dog", "a much longer text than the context of it has"]


def make_model(seed=0, config=CONFIG, conv_stem=None, kind=CLIP):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**config)
        if conv_stem:
            model.visual.conv1 = ConvStem(conv_stem)
    return model.eval()


def save_checkpoint(folder, model, name="model.pt", config=None):
    path = folder / name
    torch.save(model.state_dict(), path)
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS} if config is None else config
    path.with_suffix(".json").write_text(json.dumps(config))
    return path


@pytest.fixture
def images():
    sizes = [(16, 16), (40, 20), (9, 30)]
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@pytest.fixture
def forget(monkeypatch):
    """Nothing is loaded."""
    monkeypatch.setattr(registry, "_loaded", {})


# -- running


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_features_are_those_of_a_bare_open_clip_loop(tmp_path, images, resize_mode):
    preprocess_cfg = {**PREPROCESS, "resize_mode": resize_mode}
    model = make_model()
    config = {"model_cfg": CONFIG, "preprocess_cfg": preprocess_cfg}
    backbone = load_backbone(save_checkpoint(tmp_path, model, config=config), device="cpu")
    transform = image_transform_v2(PreprocessCfg(size=16, **preprocess_cfg), is_train=False)
    with torch.no_grad():
        inputs = torch.stack([transform(image) for image in images])
        expected = model.encode_image(inputs, normalize=True)
        tokens = open_clip.tokenizer.SimpleTokenizer(context_length=12)(TEXTS)
        expected_texts = model.encode_text(tokens, normalize=True)
    pixels = np.stack([backbone.preprocessing(image) for image in images])
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    assert torch.equal(backbone.normalize(channels_first), inputs)
    assert_allclose(backbone.encode_images(channels_first), expected, atol=1e-6)
    assert_allclose(backbone.encode_texts(TEXTS), expected_texts, atol=1e-6)
    assert_allclose(backbone.encode_texts(TEXTS, batch_size=1), expected_texts, atol=1e-6)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_preprocessing_goes_to_other_processes_without_the_model(tmp_path, images, resize_mode):
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": resize_mode}}
    backbone = load_backbone(save_checkpoint(tmp_path, make_model(), config=config), device="cpu")
    expected = [backbone.preprocessing(image) for image in images]
    pickled = pickle.dumps(backbone.preprocessing)
    assert len(pickled) < 2000 and str(tmp_path).encode() not in pickled
    again = pickle.loads(pickled)
    assert again.image_size == 16
    for image, pixels in zip(images, expected, strict=True):
        np.testing.assert_array_equal(again(image), pixels)


def test_no_texts_give_no_features(tmp_path):
    backbone = load_backbone(save_checkpoint(tmp_path, make_model()), device="cpu")
    assert backbone.encode_texts([]).shape == (0, 16)


def test_attributes_say_what_the_configuration_says(tmp_path):
    path = save_checkpoint(tmp_path, make_model())
    backbone = load_backbone(path, device="cpu")
    assert backbone.name == str(path)
    assert (backbone.embed_dim, backbone.image_size) == (16, 16)
    assert backbone.logit_scale == pytest.approx(1 / 0.07)
    assert backbone.tokenize(TEXTS).shape == (3, 12)


def test_model_is_frozen_in_evaluation_mode_and_float32(tmp_path):
    backbone = load_backbone(save_checkpoint(tmp_path, make_model().half()), device="cpu")
    assert not backbone.model.training
    for parameter in backbone.model.parameters():
        assert parameter.dtype == torch.float32 and not parameter.requires_grad


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(2, 3, 17, 16, dtype=torch.uint8),
        torch.zeros(2, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 16, 16),
    ],
)
def test_pixels_of_another_shape_or_dtype_are_refused(tmp_path, pixels):
    backbone = load_backbone(save_checkpoint(tmp_path, make_model()), device="cpu")
    with pytest.raises(ValueError, match=r"expected pixels of shape \(n, 3, 16, 16\)"):
        backbone.encode_images(pixels)


def test_convolutional_stem_replaces_the_patch_embedding(tmp_path):
    model = make_model(conv_stem=[4, 8, 16])
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS, "conv_stem": [4, 8, 16]}
    backbone = load_backbone(save_checkpoint(tmp_path, model, config=config), device="cpu")
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = model.encode_image(backbone.normalize(pixels), normalize=True)
    assert_allclose(backbone.encode_images(pixels), expected.detach(), atol=1e-6)


@pytest.mark.parametrize("channels", [[4, 8, 12], [8, 16]])
def test_stem_of_another_width_or_patch_size_is_refused(tmp_path, channels):
    config = {"model_cfg": CONFIG, "conv_stem": channels}
    path = save_checkpoint(tmp_path, make_model(), config=config)
    with pytest.raises(
        BackboneMismatchError, match="conv_stem is expected to end at the width 16"
    ):
        load_backbone(path)


def test_custom_text_tower_takes_the_weights_of_a_plain_one(tmp_path):
    plain = make_model()
    config = {"model_cfg": {**CONFIG, "custom_text": True}, "preprocess_cfg": PREPROCESS}
    backbone = load_backbone(save_checkpoint(tmp_path, plain, config=config), device="cpu")
    assert isinstance(backbone.model, CustomTextCLIP)
    expected = plain.encode_text(backbone.tokenize(TEXTS), normalize=True)
    assert_allclose(backbone.encode_texts(TEXTS), expected.detach(), atol=1e-6)


# -- once per process


def test_loaded_once_by_every_way_of_writing_its_name(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, make_model())
    first = load_backbone(path, device="cpu")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("model.pt", device=torch.device("cpu")) is first
    assert pickle.loads(pickle.dumps(first)) is first


def test_loaded_once_by_threads_that_come_at_once(tmp_path):
    path = save_checkpoint(tmp_path, make_model())
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(load_backbone(path))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4 and len(set(map(id, loaded))) == 1


def test_replaced_file_is_another_backbone(tmp_path):
    path = save_checkpoint(tmp_path, make_model(seed=0))
    first = load_backbone(path)
    time.sleep(0.01)  # beyond the clock of the file system
    save_checkpoint(tmp_path, make_model(seed=1))
    second = load_backbone(path)
    assert second is not first and second.identity != first.identity


def test_identity_is_that_of_content_and_configuration(tmp_path):
    model = make_model()
    (tmp_path / "copy").mkdir()
    path = save_checkpoint(tmp_path, model)
    copy = save_checkpoint(tmp_path / "copy", model)
    other = {"model_cfg": CONFIG, "preprocess_cfg": {**PREPROCESS, "interpolation": "bilinear"}}
    changed = save_checkpoint(tmp_path / "copy", model, name="other.pt", config=other)
    identities = [load_backbone(file).identity for file in (path, copy, changed)]
    assert identities[0] == identities[1] != identities[2]
    assert len(identities[0]) == 64


# -- local files that are not right


def test_missing_file_is_said(tmp_path):
    with pytest.raises(BackboneNotFoundError, match=r"no checkpoint file .*nothing\.safetensors"):
        load_backbone(tmp_path / "nothing.safetensors")


def test_missing_configuration_is_said_with_the_names_expected(tmp_path):
    path = save_checkpoint(tmp_path, make_model())
    path.with_suffix(".json").rename(tmp_path / "open_clip_config.json")
    load_backbone(path)  # the other name is as good
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(BackboneNotFoundError, match=r"model\.json or open_clip_config\.json"):
        load_backbone(path)


def test_bare_model_configuration_is_taken_too(tmp_path):
    path = save_checkpoint(tmp_path, make_model(), config=CONFIG)
    assert load_backbone(path).embed_dim == 16


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not valid JSON"),
        ("[]", "model_cfg lacks"),
        ('{"model_cfg": {"embed_dim": 3}}', r"lacks \['vision_cfg', 'text_cfg'\]"),
        (
            json.dumps({"model_cfg": {**CONFIG, "vision_cfg": {"depth": 3}}}),
            "no model that open_clip can build.*depth",
        ),
    ],
)
def test_configuration_that_describes_no_model_is_refused(tmp_path, text, match):
    path = save_checkpoint(tmp_path, make_model())
    path.with_suffix(".json").write_text(text)
    with pytest.raises(BackboneMismatchError, match=match):
        load_backbone(path)


@pytest.mark.parametrize("levels", [30, 400, 100_000])
def test_a_configuration_without_end_is_refused(tmp_path, levels):
    path = save_checkpoint(tmp_path, make_model())
    deep = "[" * levels + "]" * levels
    config = json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"mean": 0}})
    path.with_suffix(".json").write_text(config.replace('"mean": 0', f'"mean": {deep}'))
    with pytest.raises(BackboneMismatchError, match=r"model\.json is not valid JSON"):
        load_backbone(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_their_name(tmp_path, value):
    model = make_model()
    with torch.no_grad():
        model.visual.proj[1, 2] = value
    path = save_checkpoint(tmp_path, model)
    with pytest.raises(BackboneError, match=r"not all finite: .* in visual\.proj\. .*get it aga"):
        load_backbone(path)


def test_what_pickle_could_run_is_refused_without_torch_s_advice(tmp_path):
    path = save_checkpoint(tmp_path, make_model())
    torch.save(make_model(), path)  # the model itself, not its tensors
    with pytest.raises(BackboneError, match="holds more than tensors") as caught:
        load_backbone(path)
    assert "weights_only" not in str(caught.value)


def test_weights_of_another_model_are_refused_with_the_names(tmp_path):
    weights = make_model().state_dict()
    del weights["ln_final.bias"]
    weights["extra.weight"] = torch.zeros(1)
    weights["visual.proj"] = torch.zeros(16, 17)
    path = save_checkpoint(tmp_path, make_model())
    torch.save(weights, path)
    with pytest.raises(BackboneMismatchError) as caught:
        load_backbone(path)
    message = str(caught.value)
    assert "missing ln_final.bias;" in message
    assert "not in the model extra.weight;" in message
    assert "visual.proj is (16, 17), expected (16, 16)" in message


def test_long_lists_of_names_are_shortened(tmp_path):
    path = save_checkpoint(tmp_path, make_model())
    torch.save({"logit_scale": torch.zeros(())}, path)
    with pytest.raises(BackboneMismatchError, match=r"missing .* and \d+ more"):
        load_backbone(path)


def test_damaged_weights_are_said(tmp_path):
    path = save_checkpoint(tmp_path, make_model())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackboneError, match=r"could not be read from .*model\.pt"):
        load_backbone(path)


def test_weights_without_the_bias_of_a_siglip_loss_are_taken(tmp_path):
    config = {**CONFIG, "init_logit_bias": -10}
    plain = make_model()
    path = save_checkpoint(tmp_path, plain, config={"model_cfg": config})
    backbone = load_backbone(path, device="cpu")
    assert float(backbone.model.logit_bias) == 0
    expected = plain.encode_text(backbone.tokenize(TEXTS), normalize=True).detach()
    assert_allclose(backbone.encode_texts(TEXTS), expected, atol=1e-6)


def test_image_that_is_not_square_is_refused(tmp_path):
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": [16, 32]}}
    path = save_checkpoint(tmp_path, make_model(config=config), config={"model_cfg": config})
    with pytest.raises(BackboneMismatchError, match="16 x 32 pixels"):
        load_backbone(path)


def test_tokenizer_that_needs_another_package_or_file_is_said(tmp_path):
    text_cfg = {**CONFIG["text_cfg"], "hf_tokenizer_name": str(tmp_path / "no tokenizer")}
    config = {"model_cfg": {**CONFIG, "text_cfg": text_cfg}}
    path = save_checkpoint(tmp_path, make_model(), config=config)
    with pytest.raises(BackboneError, match=r"tokenizer .*no tokenizer.*(pip install|configurat)"):
        load_backbone(path)


# -- devices


@pytest.mark.parametrize("device", ["meta", "meta:0", torch.device("meta")])
def test_a_device_that_computes_nothing_is_refused_before_loading(tmp_path, device):
    with pytest.raises(ValueError, match=r"expected a device that computes .*got 'meta'"):
        load_backbone(tmp_path / "nothing.pt", device=device)


def test_a_path_is_told_from_a_name(tmp_path):
    assert registry.is_path(str(tmp_path / "model.pt"))
    assert registry.is_path("local-dir:models/plants")
    names = ("glyph", "ViT-B-32/openai", "hf-hub:lab/plants.bin", "auto", None)
    assert not any(map(registry.is_path, names))


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_prefers_cuda_then_mps_then_the_cpu(monkeypatch, has_cuda, has_mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert registry.resolve_device("auto") == torch.device(expected)


def test_unknown_device_is_a_value_error():
    with pytest.raises(ValueError, match=r"expected device 'auto'.*got 'gpu'"):
        registry.resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_device_that_is_not_there_is_said():
    with pytest.raises(BackboneError, match=r"'cuda' is not available.*device='auto'"):
        registry.resolve_device("cuda")
    assert registry.resolve_device("auto") == torch.device("cpu")


# -- open_clip's names


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("VIT-b-32/openai", "Did you mean 'ViT-B-32/openai'"),
        ("glpyh", "Did you mean 'glyph'"),
        ("ViT-B-32", r"expected a pretrained model 'MODEL/TAG'.*ViT-B-32/openai"),
        ("ViT-B-32/opnai", r"Of ViT-B-32 there are: ViT-B-32/openai"),
        ("nothing/like it", r"'auto', 'glyph', the path of a checkpoint .*list_backbones"),
        ("nothing/like-it", r"Or 'hf-hub:nothing/like-it', on the Hugging Face Hub\?"),
    ],
)
def test_unknown_name_is_answered_with_what_there_is(name, match):
    with pytest.raises(BackboneNotFoundError, match=match):
        load_backbone(name)


def test_a_folder_without_the_prefix_is_answered_with_it(tmp_path):
    with pytest.raises(BackboneNotFoundError, match=f"write 'local-dir:{tmp_path}'"):
        load_backbone(tmp_path)
    with pytest.raises(BackboneNotFoundError, match=r"'\./nothing' is not there: expected the pa"):
        load_backbone("./nothing")


def test_list_holds_every_kind_of_name():
    names = list_backbones()
    assert names[:2] == ["auto", "glyph"]
    assert {"ViT-B-32/openai", "ViT-L-14/openai", "ViT-B-16-SigLIP/webli"} <= set(names)


@pytest.fixture
def small_open_clip(monkeypatch, tmp_path, forget):
    """open_clip's ViT-B-32 made small; downloads come from a folder, and are counted."""
    model = make_model(config={**CONFIG, "quick_gelu": True})
    path = tmp_path / "download.pt"
    torch.save(model.state_dict(), path)
    downloads = []

    def download(cfg, prefer_hf_hub=True, cache_dir=None):
        downloads.append(cache_dir)
        return str(path)

    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(CONFIG)))
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *args, **kwargs: None)
    model.downloads = downloads
    return model


def test_open_clip_names_are_fetched_once_and_built_with_their_activation(
    small_open_clip, tmp_path
):
    backbone = load_backbone("ViT-B-32/openai", device="cpu", cache_dir=tmp_path)
    assert load_backbone("ViT-B-32/openai", device="cpu", cache_dir=tmp_path) is backbone
    assert small_open_clip.downloads == [str(tmp_path)]
    assert backbone.name == "ViT-B-32/openai"
    assert backbone.preprocess.mean == open_clip.OPENAI_DATASET_MEAN
    # OpenAI's weights want QuickGELU, of which the plain name's configuration says nothing
    expected = small_open_clip.encode_text(backbone.tokenize(TEXTS), normalize=True)
    assert_allclose(backbone.encode_texts(TEXTS), expected.detach(), atol=1e-6)


def test_slash_in_the_models_name_is_taken_as_papers_write_it(small_open_clip):
    assert load_backbone("ViT-B/32/openai", device="cpu").name == "ViT-B-32/openai"


def test_weights_in_the_cache_are_not_asked_for_again(small_open_clip, monkeypatch, tmp_path):
    path = tmp_path / "download.pt"
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda repository, filename, cache_dir=None: str(path) if "bin" in filename else None,
    )
    load_backbone("ViT-B-32/openai", device="cpu")
    assert small_open_clip.downloads == []


def test_failed_download_says_what_can_be_done(small_open_clip, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("name resolution failed")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fail)
    match = "could not be fetched: name resolution failed.*path of a checkpoint.*'glyph'"
    with pytest.raises(BackboneNotFoundError, match=match):
        load_backbone("ViT-B-32/openai", device="cpu")


def test_unreachable_hub_is_said_without_trying_again_and_again(small_open_clip, monkeypatch):
    def unreachable(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(BackboneNotFoundError, match="could not be fetched: OSError: no network"):
        load_backbone("ViT-B-32/openai", device="cpu")
    assert small_open_clip.downloads == []


def test_hub_that_knows_the_weights_by_another_name_is_asked(small_open_clip, monkeypatch):
    def not_found(url, timeout):
        response = SimpleNamespace(status_code=404, headers={}, request=None)
        raise HfHubHTTPError("not found", response=response)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", not_found)
    load_backbone("ViT-B-32/openai", device="cpu")
    assert len(small_open_clip.downloads) == 1


# -- "auto"


@pytest.fixture
def small_glyph(monkeypatch, tmp_path):
    path = save_checkpoint(tmp_path, make_model(seed=5), name="embedded.pt")
    monkeypatch.setitem(registry._EMBEDDED_FILES, "glyph", path)


@pytest.mark.filterwarnings("error")
def test_auto_is_the_preferred_model_where_its_weights_are_cached(
    small_open_clip, small_glyph, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda *args, **kwargs: str(tmp_path / "download.pt"),
    )
    assert load_backbone("auto", device="cpu").name == "ViT-B-32/openai"


@pytest.mark.filterwarnings("error")
def test_auto_is_the_preferred_model_where_it_can_be_fetched(
    small_open_clip, small_glyph, monkeypatch
):
    assert load_backbone(device="cpu").name == "ViT-B-32/openai"
    assert len(small_open_clip.downloads) == 1


def test_auto_offline_is_an_error_that_says_how_to_get_weights(
    small_open_clip, small_glyph, monkeypatch
):
    questions = []

    def unreachable(url, timeout):
        questions.append((url, timeout))
        raise OSError("offline")

    match = (
        r"'ViT-B-32/openai' are not in.*OSError: offline\. Connect to the network once, or pass"
    )
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
        with pytest.raises(BackboneNotFoundError, match=match):
            load_backbone("auto", device="cpu")
    assert len(questions) == 1 and questions[0][1] <= 5
    # and once there is a network, it is found
    assert load_backbone("auto", device="cpu").name == "ViT-B-32/openai"


def test_auto_does_not_wait_for_a_network_that_hangs(small_open_clip, small_glyph, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(hub, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(
        "huggingface_hub.get_hf_file_metadata", lambda *args, **kwargs: released.wait(60)
    )
    # who asks for it by name may have a slow network
    assert registry._why_unreachable({"hf_hub": "owner/name/"}, patient=True) is None
    with pytest.raises(BackboneNotFoundError, match=r"no answer in \d+ seconds"):
        load_backbone("auto", device="cpu")
    released.set()


def test_auto_says_why_the_download_broke(small_open_clip, small_glyph, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("connection reset")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fail)
    with pytest.raises(BackboneNotFoundError, match="connection reset"):
        load_backbone("auto", device="cpu")


# -- the embedded model


def test_embedded_model_comes_through_the_same_loader():
    backbone = load_backbone("glyph", device="cpu")
    assert backbone.name == "glyph"
    assert backbone.image_size == 32
    files = registry._find_local("glyph", registry._EMBEDDED_FILES["glyph"])
    assert isinstance(files, BackboneFiles) and files.identity == backbone.identity
    one, other = backbone.encode_texts(["digit zero", "digit one"])
    assert float(one @ other) < 0.99


@pytest.mark.parametrize("source", [{}, {"hf_tokenizer_name": "some/tokenizer"}])
def test_a_configuration_cannot_make_a_tokenizer_run_code(tmp_path, monkeypatch, source):
    def not_reached(*args, **kwargs):
        raise AssertionError("something of the model was built")

    text_cfg = {**CONFIG["text_cfg"], **source, "tokenizer_kwargs": {"trust_remote_code": True}}
    config = {"model_cfg": {**CONFIG, "text_cfg": text_cfg}}
    path = save_checkpoint(tmp_path, make_model(), config=config)
    for name in ("HFTokenizer", "SimpleTokenizer", "CLIP", "CustomTextCLIP"):
        monkeypatch.setattr(f"capkit.backbones.loading.{name}", not_reached)
    with pytest.raises(BackboneMismatchError, match="gives its tokenizer trust_remote_code"):
        load_backbone(path)


def test_a_configuration_may_say_how_texts_are_cleaned(tmp_path):
    text_cfg = {**CONFIG["text_cfg"], "tokenizer_kwargs": {"clean": "whitespace"}}
    config = {"model_cfg": {**CONFIG, "text_cfg": text_cfg}}
    path = save_checkpoint(tmp_path, make_model(), config=config)
    assert load_backbone(path).embed_dim == CONFIG["embed_dim"]
