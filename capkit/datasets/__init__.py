"""Image data sets that come with capkit, with class names and descriptions."""

from capkit.datasets._characters import load_digits, load_handwriting
from capkit.datasets._planted import make_concept_space

__all__ = ["load_digits", "load_handwriting", "make_concept_space"]
