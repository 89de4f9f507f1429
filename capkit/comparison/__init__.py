"""The yardstick: what several methods make of a user's own images, and what they cost."""

from capkit.comparison.methods import all_methods
from capkit.comparison.protocol import compare
from capkit.comparison.table import Comparison

__all__ = ["Comparison", "all_methods", "compare"]
