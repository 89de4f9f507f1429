"""
Quickstart: handwriting for a model of print
============================================

The small vision-language model that comes with capkit has only ever seen *printed* characters and
their names. Here it meets *handwriting*: it is given pictures of letters and digits and the names
of the classes, and not a single label.

``make demo`` runs this script. It draws a picture into the current folder, or to the path that is
given: ``python examples/quickstart.py picture.png``.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline

from capkit import CAPClassifier, CLIPEncoder, ConceptAligner
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import load_digits
from capkit.describers import TableDescriber
from capkit.inspection import RecallDisplay

# %%
# The images
# ----------
# scikit-learn's handwritten digits. The model trains on one part of them and is scored on another.

train = load_digits(split="train")
test = load_digits(split="test")
names = train.class_names
print(f"{len(names)} classes, {len(train.images)} images without labels")

# %%
# Before
# ------
# Zero-shot prediction: the class whose name is most similar to the image.

zero_shot = ZeroShotClassifier(backbone="glyph").fit(train.images, class_names=names)
before = zero_shot.predict(test.images)

# %%
# Adapting
# --------
# One call finds the classes whose name does not fit their images, gives them another text, and
# trains adapters on the model's features. The other texts come from a table of descriptions
# here; a language model can write them too.

describer = TableDescriber(train.descriptions)
model = CAPClassifier(
    paradigm="ul",
    backbone="glyph",
    tuning="adapter",
    describer=describer,
    random_state=0,
    verbose=sys.stderr.isatty(),  # a progress bar, where somebody watches
)
model.fit(train.images, class_names=names)
after = model.predict(test.images)

# %%
# Mismatched classes and their new text, and what adaptation was found to be worth, which is told
# from the images alone:

for name, description in model.descriptions_.items():
    print(f"{name}: {description}")
print(model.adaptation_report_)

# %%
# What each part is worth
# -----------------------
# *Aligned* is the zero-shot prediction with the new texts, before any training.

stages = make_pipeline(
    CLIPEncoder(backbone="glyph", class_names=names),
    ConceptAligner(describer=describer, random_state=0),
    ZeroShotClassifier(),
)
aligned = stages.fit(train.images).predict(test.images)

truth = np.array(names)[test.target]
print(f"{'':12}{'accuracy':>10}{'mean recall of the classes':>30}")
for title, labels in {"zero-shot": before, "aligned": aligned, "CAP": after}.items():
    accuracy = accuracy_score(truth, labels)
    recall = balanced_accuracy_score(truth, labels)
    print(f"{title:12}{accuracy:10.1%}{recall:30.1%}")

# %%
# Before and after
# ----------------
# Left, the recall of each class; right, images whose label changed to the right one.

figure = plt.figure(figsize=(10, 4), layout="constrained")
left, right = figure.subfigures(1, 2)
RecallDisplay.from_predictions(
    truth, before=before, after=after, class_names=names, ax=left.subplots()
)

corrected = np.flatnonzero((before != truth) & (after == truth))
picked = np.random.default_rng(0).choice(corrected, min(15, len(corrected)), replace=False)
for row, panel in zip(picked, right.subplots(3, 5).flat, strict=False):
    panel.imshow(test.images[row])
    panel.set_axis_off()
    panel.set_title(f"{before[row]}\n→ {after[row]}", fontsize=7)

picture = sys.argv[1] if len(sys.argv) > 1 else "quickstart.png"
figure.savefig(picture, dpi=110)
print(f"picture before and after: {picture}")
