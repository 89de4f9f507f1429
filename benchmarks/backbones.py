"""Which of open_clip's models capkit can encode with, and which of their towers take prompts.

    python benchmarks/backbones.py
    python benchmarks/backbones.py --output docs/results/backbones.csv

Every architecture of open_clip, variants of resolution and activation aside, is built without
memory for its weights, to count these and to look for the places where prompts enter. A family is
what has one kind of name and of image tower. Of each the smallest model, if it has no more than
``--parameters`` millions, is then built with random weights: it encodes images and texts, and
again with prompts in the first layers of each tower, all of which have to have a gradient.

Text models of the package transformers need files from the Hub and are not tried.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg

from capkit.backbones import Backbone
from capkit.backbones.loading import build_model
from capkit.backbones.prompting import PromptedTowers, find_text_tower, find_visual_tower
from capkit.exceptions import UnsupportedBackboneError

COLUMNS = [
    "family",
    "models",
    "smallest",
    "parameters [M]",
    "image tower",
    "tokenizer",
    "encodes",
    "prompts in images",
    "prompts in texts",
    "tuning",
]
FOREIGN_TEXTS = "text model of transformers"
#: Families by what their models' names look like; the first that fits counts.
FAMILIES = {
    FOREIGN_TEXTS: r"roberta|mt5|nllb",
    "SigLIP 2": r"SigLIP2",
    "SigLIP": r"SigLIP",
    "CLIPA": r"CLIPA",
    "MetaCLIP 2": r"worldwide",
    "EVA": r"EVA",
    "MobileCLIP 2": r"MobileCLIP2",
    "MobileCLIP": r"MobileCLIP",
    "Perception Encoder": r"PE-Core",
    "ViTamin": r"ViTamin",
    "CoCa": r"coca",
    "ConvNeXt": r"convnext",
    "ResNet": r"RN\d",
    "Swin": r"swin",
    "timm ViT": r"vit_",
    "ViT": r"ViT",
}
#: Weights whose training set names a family of its own: they are models of the family "ViT".
BY_TAG = {"DFN": r"dfn"}
#: What tells a variant of an architecture: the resolution, the activation.
VARIANT = re.compile(r"(-quickgelu|[-_]\d{3})+$")
N_PROMPTS, N_LAYERS, N_IMAGES, TEXTS = 2, 2, 2, ["a photo of a fern", "a photo of moss"]


class Model(NamedTuple):
    """What is told of a model without memory for its weights."""

    name: str
    config: dict[str, Any]
    n_parameters: int
    image_tower: str
    takes_images: bool
    takes_texts: bool


class Family(NamedTuple):
    """What models have in common."""

    name: str
    image_tower: str
    takes_images: bool
    takes_texts: bool


def describe(name: str) -> Model:
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = build_model(config)
    return Model(
        name,
        config,
        sum(parameter.numel() for parameter in model.parameters()),
        type(getattr(model.visual, "trunk", model.visual)).__name__,
        is_found(find_visual_tower, model),
        is_found(find_text_tower, model),
    )


def is_found(find: Callable, model: torch.nn.Module) -> bool:
    try:
        find(model)
    except UnsupportedBackboneError:
        return False
    return True


def to_backbone(model: Model) -> Backbone:
    """The model with random weights, and CLIP's words as far as it knows so many."""
    built = build_model(model.config)
    text_cfg = model.config["text_cfg"]
    simple = SimpleTokenizer(context_length=text_cfg.get("context_length", 77))
    size = text_cfg.get("vocab_size", 49408)
    side = built.visual.image_size
    side = side if isinstance(side, int) else side[0]
    return Backbone(
        name=model.name,
        identity=model.name,
        model=built,
        tokenizer=lambda texts: simple(texts) % size,
        preprocess=PreprocessCfg(size=side),
        embed_dim=model.config["embed_dim"],
        device=torch.device("cpu"),
    )


def encodes(backbone: Backbone, pixels: torch.Tensor) -> bool:
    """Whether features are finite unit rows of the width that the configuration says."""
    features = backbone.encode_images(pixels), backbone.encode_texts(TEXTS)
    return all(
        part.shape == (2, backbone.embed_dim)
        and bool(torch.allclose(part.norm(dim=1), torch.ones(2), atol=1e-4))
        for part in features
    )


def reach_features(backbone: Backbone, pixels: torch.Tensor) -> tuple[bool, bool]:
    """Whether features of images, and of texts, have a gradient with respect to every prompt."""
    towers = PromptedTowers(backbone.model)
    tokens = backbone.tokenize([f"X X {text}" for text in TEXTS])
    return (
        have_gradients(towers.encode_image, backbone.normalize(pixels), towers.visual.width),
        have_gradients(towers.encode_text, tokens, towers.text.width),
    )


def have_gradients(encode: Callable, inputs: torch.Tensor, width: int) -> bool:
    prompts = [torch.randn(N_PROMPTS, width, requires_grad=True) for _ in range(N_LAYERS)]
    gradients = torch.autograd.grad(encode(inputs, prompts)[:, 0].sum(), prompts)
    return all(bool((gradient.norm(dim=1) > 0).all()) for gradient in gradients)


def try_family(family: Family, models: list[Model], n_names: int, most: float) -> dict[str, Any]:
    model = min(models, key=lambda one: one.n_parameters)
    is_foreign = "hf_tokenizer_name" in model.config["text_cfg"]
    row = {
        "family": family.name,
        "models": n_names,
        "smallest": model.name,
        "parameters [M]": f"{model.n_parameters / 1e6:.0f}",
        "image tower": family.image_tower,
        "tokenizer": "transformers" if is_foreign else "open_clip",
        "encodes": "too large to try",
        "prompts in images": yes(family.takes_images),
        "prompts in texts": yes(family.takes_texts),
        "tuning": "prompt, adapter" if family.takes_images and family.takes_texts else "adapter",
    }
    if model.n_parameters > most:
        return row
    backbone = to_backbone(model)
    pixels = torch.randint(0, 256, (N_IMAGES, 3, *[backbone.image_size] * 2), dtype=torch.uint8)
    row["encodes"] = yes(encodes(backbone, pixels))
    if family.takes_images and family.takes_texts:
        images, texts = reach_features(backbone, pixels)
        row |= {"prompts in images": yes(images), "prompts in texts": yes(texts)}
    return row


def yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def names_of_families() -> dict[str, list[str]]:
    """Names of the models of each family by name."""
    found: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for model in open_clip.list_models():
        found[next(name for name, kind in FAMILIES.items() if re.search(kind, model))].append(
            model
        )
    for family, pattern in BY_TAG.items():
        named = {model for model, tag in open_clip.list_pretrained() if re.match(pattern, tag)}
        found[family] = [model for model in found["ViT"] if model in named]
    return found


def split_by_towers(name: str, models: list[str]) -> dict[Family, tuple[list[Model], int]]:
    """Of each architecture the first model, and how many there are, by family."""
    architectures: dict[str, list[str]] = {}
    for model in models:
        architectures.setdefault(VARIANT.sub("", model), []).append(model)
    found: dict[Family, tuple[list[Model], int]] = {}
    for variants in architectures.values():
        model = describe(variants[0])
        family = Family(name, model.image_tower, model.takes_images, model.takes_texts)
        known, n_names = found.get(family, ([], 0))
        found[family] = ([*known, model], n_names + len(variants))
    return found


def not_tried(name: str, models: list[str]) -> dict[str, Any]:
    return {
        "family": name,
        "models": len(models),
        "smallest": models[0],
        "tokenizer": "transformers",
        "encodes": "not tried",
        "prompts in texts": "no",
        "tuning": "adapter",
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output")
    parser.add_argument("--parameters", type=float, default=450, help="most, in millions")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    rows = []
    for name, models in names_of_families().items():
        start = time.perf_counter()
        if name == FOREIGN_TEXTS:
            rows.append(not_tried(name, models))
            continue
        for family, (members, n_names) in split_by_towers(name, models).items():
            rows.append(try_family(family, members, n_names, options.parameters * 1e6))
            print(rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    if options.output:
        with open(options.output, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
