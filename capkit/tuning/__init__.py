"""Ways of tuning: what is trained, on what, and for how long."""

from capkit.tuning.adapter import AdapterTuning
from capkit.tuning.base import Tuning
from capkit.tuning.prompt import PromptTuning

__all__ = ["AdapterTuning", "PromptTuning", "Tuning"]
