"""What to compare CAP with: other ways to classify with the same model and images."""

from capkit.baselines.gaussian import GaussianTransductionClassifier
from capkit.baselines.zero_shot import ZeroShotClassifier

__all__ = ["GaussianTransductionClassifier", "ZeroShotClassifier"]
