"""
Pictures of what adaptation does
================================

:mod:`capkit.inspection` has displays in scikit-learn's form: ``from_estimator`` takes a fitted
classifier and images, ``from_predictions`` takes labels. They name the classes, and with hundreds
of classes they show those that matter most.
"""

import matplotlib.pyplot as plt

from capkit import CAPClassifier, CLIPEncoder
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import load_digits
from capkit.inspection import (
    ConfusionPairsDisplay,
    LabelDistributionDisplay,
    RecallDisplay,
    ReliabilityDisplay,
    TrainingHistoryDisplay,
)

train, test = load_digits(split="train"), load_digits(split="test")
names = train.class_names

zero_shot = ZeroShotClassifier(backbone="glyph").fit(train.images, class_names=names)
model = CAPClassifier(backbone="glyph", tuning="adapter", random_state=0)
model.fit(train.images, class_names=names)

# %%
# Without any label
# -----------------
# How many images are labeled as each class. Names that do not fit their images are hardly ever
# given, and other classes take what is theirs:

LabelDistributionDisplay.from_estimator(model, test.images, before=zero_shot)
plt.show()

# %%
# What may still be confused, as far as the probabilities tell. These are the images to look at:

ConfusionPairsDisplay.from_estimator(model, test.images, max_pairs=10)
plt.show()

# %%
# How the training went. ``kept`` and ``class_balance`` of ``history_`` are the shares:

TrainingHistoryDisplay.from_estimator(model)
plt.show()

# %%
# With labels to check against
# ----------------------------
# The true classes of the test images, as indices into the class names. Images without a label,
# marked by -1 or None, would not count.

RecallDisplay.from_estimator(zero_shot, model, test.images, test.target)
plt.show()

# %%
# With labels, the display counts the confusions that there are:

ConfusionPairsDisplay.from_estimator(model, test.images, test.target, max_pairs=10)
plt.show()

# %%
# Whether predictions are right as often as their probability says. The panels take the place of
# axes that they are given:

figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
before = ReliabilityDisplay.from_estimator(
    zero_shot, test.images, test.target, name="zero-shot", ax=axes[0]
)
after = ReliabilityDisplay.from_estimator(
    model, test.images, test.target, name="adapted", ax=axes[1]
)
plt.show()
print(f"{before.calibration_error_:.1%} -> {after.calibration_error_:.1%}")

# %%
# A :class:`~capkit.ConceptSpace` takes the place of images, and knows its zero-shot prediction
# by itself:

space = CLIPEncoder(backbone="glyph", class_names=names).fit_transform(test.images)
RecallDisplay.from_estimator(None, model, space, test.target)
plt.show()
