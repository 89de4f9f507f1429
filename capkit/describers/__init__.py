"""Where descriptions of classes come from: a language model, a table, or any callable.

A describer is any callable ``(class_name, n) -> list of str``; one that can answer for many
classes at once also has ``describe(class_names, n) -> dict``. :func:`describe_classes` works with
either kind and cleans the answers, which are treated as untrusted data.
"""

from capkit.describers.asking import clean_descriptions, describe_classes
from capkit.describers.ollama import OllamaDescriber
from capkit.describers.openai import OpenAIDescriber
from capkit.describers.table import TableDescriber, load_descriptions, save_descriptions

__all__ = [
    "OllamaDescriber",
    "OpenAIDescriber",
    "TableDescriber",
    "clean_descriptions",
    "describe_classes",
    "load_descriptions",
    "save_descriptions",
]
