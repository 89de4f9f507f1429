"""Comparing several methods on a user's own images: quality and cost."""

from capkit.comparison.methods import all_methods
from capkit.comparison.protocol import compare
from capkit.comparison.table import Comparison

__all__ = ["Comparison", "all_methods", "compare"]
