"""Captions of characters: their Unicode names, and what they look like."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

SHAPES_FILE = Path(__file__).with_name("shapes.json")
CONTEXT_LENGTH = 32
EVALUATION_TEMPLATE = "a photo of a {}"
NAME_TEMPLATES = (
    EVALUATION_TEMPLATE,
    "{}",
    "a photo of the {}",
    "a picture of a {}",
    "an image of a {}",
    "a drawing of a {}",
    "a printed {}",
    "a close-up photo of a {}",
    "the character {}",
)
SHAPE_TEMPLATES = (
    "{shape}",
    "a photo of {shape}",
    "a character with {shape}",
    "{name}, {shape}",
    "a photo of a {name}, {shape}",
)


def character_name(character: str) -> str:
    """Name a character as the captions do: its Unicode name in lower case."""
    return unicodedata.name(character).lower()


def describe(character: str, shapes: dict[str, dict[str, list[str]]]) -> list[str]:
    """List visual descriptions; a character with diacritics joins those of its parts."""
    if character in shapes["characters"]:
        return shapes["characters"][character]
    base, _, marks = unicodedata.name(character).partition(" WITH ")
    try:
        descriptions = shapes["characters"][unicodedata.lookup(base)]
        phrases = [shapes["diacritics"][mark.lower()] for mark in marks.split(" AND ")]
    except KeyError:
        return []
    n_variants = min(len(options) for options in phrases)
    joined = [" and ".join(options[i] for options in phrases) for i in range(n_variants)]
    return [f"{description} with {marks}" for description in descriptions for marks in joined]


@dataclass(frozen=True)
class CaptionTable:
    """Every caption, tokenised once, in rows sorted by character.

    Attributes
    ----------
    tokens : ndarray of shape (n_captions, 32), dtype int64
        Indices into ``token_ids``. Sorting keeps the end token the largest index, by which
        open_clip finds it.
    token_ids : ndarray of shape (n_tokens,), dtype int64
        The tokenizer's identifiers, ascending.
    names, shapes : list of ndarray
        Rows of the captions that name, or that describe, each character.
    evaluation : ndarray of shape (n_characters,)
        Row of each character's caption in the evaluation template.
    """

    tokens: np.ndarray
    token_ids: np.ndarray
    names: list[np.ndarray]
    shapes: list[np.ndarray]
    evaluation: np.ndarray

    def sample(
        self, characters: np.ndarray, shape_rate: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw one caption for each character; ``shape_rate`` of those that can describe do."""
        rows = [
            rng.choice(
                self.shapes[index]
                if len(self.shapes[index]) and rng.random() < shape_rate
                else self.names[index]
            )
            for index in characters
        ]
        return self.tokens[rows]


def build_table(characters: list[str]) -> CaptionTable:
    """Write and tokenise all captions of the given characters."""
    tables = json.loads(SHAPES_FILE.read_text(encoding="utf-8"))
    captions: list[str] = []
    names, shapes = [], []

    def add(texts: list[str]) -> np.ndarray:
        captions.extend(texts)
        return np.arange(len(captions) - len(texts), len(captions))

    for character in characters:
        name = character_name(character)
        names.append(add([template.format(name) for template in NAME_TEMPLATES]))
        shapes.append(
            add(
                [
                    template.format(name=name, shape=shape)
                    for shape in describe(character, tables)
                    for template in SHAPE_TEMPLATES
                ]
            )
        )
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    original = tokenizer(captions).numpy()
    token_ids, tokens = np.unique(original, return_inverse=True)
    return CaptionTable(
        tokens=tokens.reshape(original.shape),
        token_ids=token_ids,
        names=names,
        shapes=shapes,
        evaluation=np.array([rows[0] for rows in names]),
    )
