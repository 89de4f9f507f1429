"""ONNX files give the probabilities of the classifier they were made of, without torch."""

import copy
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from sklearn.exceptions import NotFittedError
from test_docs import rst_blocks
from tiny_models import BUILDERS, build_backbone

import capkit
from capkit import CAPClassifier, GaussianTransduction, export
from capkit.backbones.preprocessing import Preprocessing
from capkit.backbones.prompting import find_visual_tower
from capkit.baselines import (
    FPLClassifier,
    GaussianTransductionClassifier,
    TransCLIPClassifier,
    ZeroShotClassifier,
)
from capkit.datasets import load_digits, load_handwriting, make_concept_space
from capkit.export import to_onnx
from capkit.gaussians import GaussianPrior
from capkit.pixels import to_rgb
from capkit.tuning import AdapterTuning, PromptTuning

# Said of trainings that are cut short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")

ROOT = Path(__file__).parents[1]
QUICK = {"epochs": 3, "steps_per_epoch": 6, "batch_size": 16}
# Steps large enough that every branch and every prompt matters.
ADAPTER = AdapterTuning(**QUICK, learning_rate=0.02)
PROMPT = PromptTuning(**QUICK, learning_rate=0.1, adapter_weight=0.5, prompt_depth=3)
MODES = ("no_adapters", "main", "pseudo", "ensemble")
BLOCKED = """
import sys


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "open_clip", "capkit"}:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module")
def digits():
    return load_digits(split="train")


@pytest.fixture(scope="module")
def new_images():
    return load_digits(split="test").images[:40]


def fit(classifier, digits, n_images=None):
    return classifier.fit(digits.images[:n_images], class_names=digits.class_names)


@pytest.fixture(scope="module")
def with_adapters(digits):
    return fit(CAPClassifier(backbone="glyph", tuning=ADAPTER, random_state=0), digits)


@pytest.fixture(scope="module")
def with_prompts(digits):
    return fit(CAPClassifier(backbone="glyph", tuning=PROMPT, random_state=0), digits)


def open_session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path, pixels):
    return open_session(path).run(["probabilities", "labels"], {"pixels": pixels})


def assert_same(classifier, path, images, atol=1e-5):
    probabilities, labels = run(path, images)
    expected = classifier.predict_proba(images)
    np.testing.assert_allclose(probabilities, expected, atol=atol)
    np.testing.assert_array_equal(classifier.classes_[labels], classifier.predict(images))
    return expected


def metadata_of(path):
    return open_session(path).get_modelmeta().custom_metadata_map


class TestPredictions:
    @pytest.mark.parametrize("inference", MODES[1:])
    def test_of_adapters_in_every_mode(self, with_adapters, new_images, inference, tmp_path):
        assert with_adapters.adaptation_report_.kept == "training"
        with_adapters.set_params(inference=inference)
        to_onnx(with_adapters, tmp_path / "model.onnx")
        expected = assert_same(with_adapters, tmp_path / "model.onnx", new_images)
        for other in set(MODES[1:]) - {inference}:
            with_adapters.set_params(inference=other)
            assert np.abs(with_adapters.predict_proba(new_images) - expected).max() > 1e-4

    @pytest.mark.parametrize("inference", MODES)
    def test_of_prompts_in_every_mode(self, with_prompts, new_images, inference, tmp_path):
        assert with_prompts.adaptation_report_.kept == "training"
        with_prompts.set_params(inference=inference)
        to_onnx(with_prompts, tmp_path / "model.onnx")
        expected = assert_same(with_prompts, tmp_path / "model.onnx", new_images)
        untrained = copy.copy(with_prompts)
        untrained._model = with_prompts._model.untrained()
        assert np.abs(untrained.predict_proba(new_images) - expected).max() > 1e-2

    @pytest.mark.parametrize("tuning", [ADAPTER, PROMPT], ids=["adapter", "prompt"])
    def test_without_gaussians(self, digits, new_images, tuning, tmp_path):
        classifier = CAPClassifier(
            backbone="glyph", tuning=tuning, pseudo_labels="zero_shot", random_state=0
        )
        to_onnx(fit(classifier, digits), tmp_path / "model.onnx")
        assert_same(classifier, tmp_path / "model.onnx", new_images)

    @pytest.mark.parametrize("n_images", [12, 150])
    def test_of_what_the_guard_held_back(self, digits, new_images, n_images, tmp_path):
        classifier = CAPClassifier(backbone="glyph", tuning=ADAPTER, random_state=0)
        fit(classifier, digits, n_images)
        assert classifier.adaptation_report_.kept != "training"
        to_onnx(classifier, tmp_path / "model.onnx")
        assert_same(classifier, tmp_path / "model.onnx", new_images)

    @pytest.mark.parametrize("cls", [ZeroShotClassifier, GaussianTransductionClassifier])
    def test_of_classifiers_that_do_not_train(self, cls, digits, new_images, tmp_path):
        classifier = fit(cls(backbone="glyph"), digits, 400)
        to_onnx(classifier, tmp_path / "model.onnx")
        assert_same(classifier, tmp_path / "model.onnx", new_images)

    def test_of_a_peer(self, digits, new_images, tmp_path):
        classifier = fit(FPLClassifier(backbone="glyph", tuning=ADAPTER, random_state=0), digits)
        to_onnx(classifier, tmp_path / "model.onnx")
        assert_same(classifier, tmp_path / "model.onnx", new_images)

    def test_labels_of_two_classes_as_indices(self, digits, new_images, tmp_path):
        rows = np.flatnonzero(digits.target < 2)
        y = np.where(np.arange(len(rows)) < 20, digits.target[rows], -1)
        classifier = CAPClassifier("ssl", backbone="glyph", tuning=ADAPTER, random_state=0)
        classifier.fit(digits.images[rows], y, class_names=["zero", "one"])
        to_onnx(classifier, tmp_path / "model.onnx")
        assert_same(classifier, tmp_path / "model.onnx", new_images)
        assert json.loads(metadata_of(tmp_path / "model.onnx")["class_names"]) == ["zero", "one"]

    @pytest.mark.parametrize("n_images", [1, 7])
    def test_of_any_number_of_images(self, with_adapters, new_images, n_images, tmp_path):
        to_onnx(with_adapters, tmp_path / "model.onnx")
        probabilities, labels = run(tmp_path / "model.onnx", new_images[:n_images])
        assert (probabilities.shape, labels.shape) == ((n_images, 10), (n_images,))
        assert (probabilities.dtype, labels.dtype) == (np.float32, np.int64)

    @pytest.mark.parametrize("opset", [17, 18, 19, 20])
    def test_by_every_set_of_operators(self, with_prompts, new_images, opset, tmp_path):
        to_onnx(with_prompts, tmp_path / "model.onnx", opset=opset)
        (found,) = onnx.load(tmp_path / "model.onnx").opset_import
        assert found.version == opset
        assert_same(with_prompts, tmp_path / "model.onnx", new_images)


@pytest.mark.parametrize("mismatched", [[], [1, 3]])
def test_evidence_is_that_of_the_gaussians_for_images_that_they_do_not_know(mismatched):
    space = make_concept_space(n_images=300, n_classes=6, n_features=16, random_state=0).space
    classes = GaussianTransduction(guard=False).fit_transform(space[:200]).transduction.classes
    prior = GaussianPrior(space.text_features, 20.0, classes, np.array(mismatched, dtype=np.int64))
    features = space.image_features[200:]
    logits = np.random.default_rng(0).normal(0.0, 5.0, (100, 6)).astype(np.float32)
    found = export._Evidence(prior)(torch.tensor(features), torch.tensor(logits))
    expected = prior(features, logits)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected - logits, axis=1).mean() > 1.0


class TestTowers:
    """Every architecture that prompts can enter, at every depth."""

    @pytest.mark.parametrize("depth", [1, 3])
    @pytest.mark.parametrize("name", BUILDERS)
    def test_with_and_without_prompts(self, name, depth):
        backbone, generator = build_backbone(name), np.random.default_rng(0)
        width = find_visual_tower(backbone.model).width
        weights = _random_weights(generator, depth, width, backbone.embed_dim)
        tuning = PromptTuning(adapter_weight=0.5)
        texts = weights["text_features"]
        size = backbone.image_size
        pixels = generator.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        for kept in (weights, {}):
            adapted = export.AdaptedModel(texts, 5.0, None, kept, tuning)
            graph = export._Graph(backbone, adapted, "ensemble", 1.0, np.arange(4))
            with torch.no_grad():
                expected, _ = graph(torch.from_numpy(pixels))
            content = export._traced(graph, size, 17)
            found, _ = onnxruntime.InferenceSession(content).run(None, {"pixels": pixels})
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.ptp(found, axis=1).min() > 1e-3


def _random_weights(generator, depth, width, dim):
    shapes = {"visual_prompts": (depth, 2, width), "text_features": (4, dim)}
    for adapter in ("text_adapter", "main_adapter", "pseudo_adapter"):
        shapes |= {
            f"{adapter}.fc1.weight": (6, dim),
            f"{adapter}.fc1.bias": (6,),
            f"{adapter}.fc2.weight": (dim, 6),
            f"{adapter}.fc2.bias": (dim,),
        }
    return {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


class TestFile:
    def test_says_how_it_was_made(self, with_adapters, tmp_path):
        to_onnx(with_adapters.set_params(inference=None), tmp_path / "model.onnx")
        found = metadata_of(tmp_path / "model.onnx")
        assert json.loads(found.pop("class_names")) == with_adapters.classes_.tolist()
        assert json.loads(found.pop("preprocessing")) == {
            "size": 32,
            "resize_mode": "squash",
            "interpolation": "bicubic",
            "crop": "none",
            "fill_color": 0,
            "mean": [0.85, 0.85, 0.85],
            "std": [0.2, 0.2, 0.2],
        }
        assert float(found.pop("temperature")) == with_adapters.temperature_
        assert found == {
            "backbone_name": "glyph",
            "backbone_fingerprint": with_adapters.backbone_id_,
            "method": "CAPClassifier",
            "inference": "ensemble",
            "capkit_version": capkit.__version__,
        }

    def test_names_no_folder_of_the_one_who_wrote_it(self, random_backbone, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        classifier = ZeroShotClassifier(backbone=random_backbone)
        to_onnx(classifier.fit(images, class_names=["a", "b"]), tmp_path / "model.onnx")
        assert metadata_of(tmp_path / "model.onnx")["backbone_name"] == "random.pt"
        content = (tmp_path / "model.onnx").read_bytes()
        assert str(Path(random_backbone).parent).encode() not in content
        assert_same(classifier, tmp_path / "model.onnx", images)

    def test_has_the_image_tower_once_and_no_text_tower(self, with_prompts, tmp_path):
        to_onnx(with_prompts.set_params(inference="ensemble"), tmp_path / "model.onnx")
        tower = with_prompts.backbone_.model.visual.parameters()
        n_bytes = sum(value.numel() * 4 for value in tower)
        assert n_bytes < (tmp_path / "model.onnx").stat().st_size < 1.25 * n_bytes

    def test_is_whole_or_the_old_one(self, with_adapters, tmp_path, monkeypatch):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
            with pytest.raises(OSError, match="full"):
                to_onnx(with_adapters, path)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_leaves_attention_and_the_generator_as_they_were(self, with_adapters, tmp_path):
        torch.manual_seed(1)
        expected = torch.rand(2)
        torch.manual_seed(1)
        assert torch.backends.mha.get_fastpath_enabled()
        to_onnx(with_adapters, tmp_path / "model.onnx")
        assert torch.backends.mha.get_fastpath_enabled()
        assert torch.equal(torch.rand(2), expected)


class TestRefusals:
    def test_what_is_not_fitted(self, tmp_path):
        with pytest.raises(NotFittedError):
            to_onnx(CAPClassifier(), tmp_path / "model.onnx")

    def test_what_predicts_by_something_else(self, digits, tmp_path):
        classifier = fit(TransCLIPClassifier(backbone="glyph"), digits, 100)
        with pytest.raises(TypeError, match=r"got TransCLIPClassifier\. Export CAPClassifier"):
            to_onnx(classifier, tmp_path / "model.onnx")

    def test_features_without_a_backbone(self, planted_space, tmp_path):
        classifier = ZeroShotClassifier().fit(planted_space)
        with pytest.raises(ValueError, match="this ZeroShotClassifier was fitted to names no ba"):
            to_onnx(classifier, tmp_path / "model.onnx")

    @pytest.mark.parametrize("opset", [16, 21, "17"])
    def test_operators_that_cannot_be_written(self, with_adapters, opset, tmp_path):
        with pytest.raises(ValueError, match="expected an opset from 17 to 20, got"):
            to_onnx(with_adapters, tmp_path / "model.onnx", opset=opset)

    def test_a_tower_that_no_file_holds(self, with_adapters, monkeypatch, tmp_path):
        monkeypatch.setattr(export, "_LARGEST_TOWER", 2**22)
        with pytest.raises(ValueError, match=r"'glyph' takes 0\.0 GiB, and an ONNX"):
            to_onnx(with_adapters, tmp_path / "model.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_without_the_package(self, with_adapters, monkeypatch, tmp_path):
        monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match="pip install onnx"):
            to_onnx(with_adapters, tmp_path / "model.onnx")


# -- the page on serving


@pytest.fixture(scope="module")
def page():
    """Its two pieces of Python: the export, and the service."""
    return rst_blocks((ROOT / "docs" / "serving.rst").read_text())


@pytest.fixture
def service(page, with_adapters, tmp_path, monkeypatch):
    """Functions of the service, for models of our own."""
    monkeypatch.chdir(tmp_path)

    def load(config=None):
        path = tmp_path / "model.onnx"
        to_onnx(with_adapters, path)
        if config is not None:
            model = onnx.load(path)
            (entry,) = [entry for entry in model.metadata_props if entry.key == "preprocessing"]
            entry.value = json.dumps(config)
            onnx.save(model, path)
        namespace = {"__name__": "serve"}
        exec(compile(page[1], "docs/serving.rst", "exec"), namespace)
        return namespace

    return load


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_services_pixels_are_capkits(service, resize_mode, interpolation):
    config = {"size": 20, "resize_mode": resize_mode, "interpolation": interpolation}
    to_pixels = service(config)["to_pixels"]
    capkits = Preprocessing(PreprocessCfg(**config))
    generator = np.random.default_rng(0)
    for width, height in [(20, 20), (20, 31), (33, 20), (64, 27), (7, 5), (100, 101), (3, 150)]:
        pixels = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
            image = Image.fromarray(pixels).convert(mode)
            expected = capkits(to_rgb(image))
            np.testing.assert_array_equal(to_pixels(saved(image)), expected, err_msg=mode)


def test_the_service_turns_photographs_upright(service):
    config = {"size": 20, "resize_mode": "shortest", "interpolation": "bicubic"}
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(Image.fromarray(pixels), exif=exif)
    expected = Preprocessing(PreprocessCfg(**config))(to_rgb(Image.open(file)))
    np.testing.assert_array_equal(service(config)["to_pixels"](file), expected)


@pytest.mark.parametrize(
    "image", [Image.new("I;16", (9, 9)), Image.new("L", (1, 65))], ids=["16 bits", "long"]
)
def test_the_service_refuses_what_it_would_read_otherwise(service, image):
    with pytest.raises(ValueError, match="expected 8 bits a channel"):
        service()["to_pixels"](saved(image))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, content):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/", body=content)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait_for(port, process):
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert process.poll() is None, "the service has ended"
            time.sleep(0.1)
    raise TimeoutError("the service does not listen")


def test_the_page_exports_and_serves_where_torch_cannot_be_imported(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_it, serve_it = page
    namespace: dict = {}
    exec(compile(export_it, "docs/serving.rst", "exec"), namespace)
    model, test = namespace["model"], load_digits(split="test")
    port = free_port()
    assert serve_it.count("8000") == 1
    script = BLOCKED + serve_it.replace("8000", str(port))
    (tmp_path / "serve.py").write_text(script)
    with open(tmp_path / "log.txt", "wb") as log:
        process = subprocess.Popen([sys.executable, "serve.py"], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        images, expected = test.images[:5], model.predict_proba(test.images[:5])
        for image, row, name in zip(images, expected, model.predict(images), strict=True):
            status, answer = ask(port, saved(Image.fromarray(image)).read())
            assert (status, answer["label"]) == (200, name)
            assert answer["probability"] == pytest.approx(row.max(), abs=1e-5)
        for content in (b"no image", b"", saved(Image.new("I;16", (9, 9))).read()):
            status, answer = ask(port, content)
            assert status == 400 and answer["error"]
    finally:
        process.terminate()
        process.wait()


PREDICT = """
import json, sys
import numpy as np

namespace = {"__name__": "serve"}
exec(compile(open("serve.py").read(), "serve.py", "exec"), namespace)
session, to_pixels = namespace["session"], namespace["to_pixels"]
paths = json.loads(sys.stdin.read())
pixels = np.stack([to_pixels(open(path, "rb")) for path in paths])
probabilities, labels = session.run(["probabilities", "labels"], {"pixels": pixels})
np.savez("found.npz", probabilities=probabilities, labels=labels)
assert not {"torch", "torchvision", "open_clip", "capkit"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["adapter", "prompt"])
@pytest.mark.parametrize("name", ["digits", "handwriting"])
def test_whole_sets_of_files_have_the_same_labels_without_torch(
    name, tuning, page, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    load = {"digits": load_digits, "handwriting": load_handwriting}[name]
    train, test = load(split="train"), load(split="test")
    paths = []
    for row, image in enumerate(test.images):
        paths.append(str(tmp_path / f"{row:05}.png"))
        Image.fromarray(image).save(paths[-1])
    chosen = {"adapter": ADAPTER, "prompt": PROMPT}[tuning]
    classifier = CAPClassifier(backbone="glyph", tuning=chosen, random_state=0)
    classifier.fit(train.images, class_names=train.class_names)
    assert classifier.adaptation_report_.kept == "training"
    (tmp_path / "serve.py").write_text(page[1])
    for inference in classifier.tuning_.inference_modes:
        to_onnx(classifier.set_params(inference=inference), "model.onnx")
        subprocess.run(
            [sys.executable, "-c", BLOCKED + PREDICT],
            input=json.dumps(paths),
            text=True,
            check=True,
        )
        found = np.load("found.npz")
        expected = classifier.predict_proba(paths)
        np.testing.assert_allclose(found["probabilities"], expected, atol=2e-5)
        np.testing.assert_array_equal(
            classifier.classes_[found["labels"]], classifier.predict(paths)
        )
