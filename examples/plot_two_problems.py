"""
Two problems of zero-shot labels, and two remedies
==================================================

A vision-language model labels images by their class names alone. It does so unevenly: some classes
it names too often, others hardly ever. Training on such labels makes it worse. This page shows the
two causes on handwriting, with the small model of print that comes with capkit.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.datasets import load_digits
from capkit.describers import TableDescriber
from capkit.inspection import MarginDisplay, MismatchDisplay

train = load_digits(split="train")
names = np.array(train.class_names)

# %%
# The encoder turns images and class names into features of one space. Zero-shot prediction takes
# the class whose text is most similar to the image.

space = CLIPEncoder(backbone="glyph", class_names=names).fit_transform(train.images)
predicted = space.predict()

# %%
# There are about as many images of each class. The predictions are not even at all:

counts = np.bincount(predicted, minlength=len(names))
order = np.argsort(counts)

figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
axes.barh(names[order], counts[order], color="tab:red", label="predicted")
axes.plot(np.bincount(train.target)[order], range(len(names)), "k|", markersize=12, label="true")
axes.set(xlabel="images")
axes.legend(frameon=False, loc="lower right")
plt.show()

# %%
# Problem one: a text that does not fit
# -------------------------------------
# The images of a class may lie close together, and its text elsewhere. Then nothing is predicted
# as this class, though the model sees well what it is. :class:`~capkit.MismatchDetector` finds
# such classes without labels. It clusters the images and takes away the class and the cluster
# that fit together best, again and again. Classes that are left to the end, and are predicted
# rarely, are mismatched: the shaded corner.

detector = MismatchDetector(t=2, random_state=0).fit(space)
MismatchDisplay.from_estimator(detector)
plt.show()

# %%
# Images of a mismatched class, with what they are taken for. (The true labels serve for such
# pictures and for scores on this page; capkit does not see them.)


def show_images(rows, titles):
    """A row of images with a title each."""
    panels = plt.figure(figsize=(11, 1.4), layout="constrained").subplots(1, len(rows))
    for row, title, panel in zip(rows, titles, panels, strict=True):
        panel.imshow(train.images[row])
        panel.set_title(title, fontsize=8)
        panel.set_axis_off()
    plt.show()


recall = recall_score(train.target, predicted, average=None)
worst = detector.mismatched_[recall[detector.mismatched_].argmin()]
rows = np.flatnonzero(train.target == worst)[:12]
print(f"{names[worst]}: {recall[worst]:.0%} of the images are predicted as it")
show_images(rows, names[predicted[rows]])

# %%
# **Remedy: another text.** :class:`~capkit.ConceptAligner` asks a describer what such a class
# looks like, and keeps the answer that is closest to the class's cluster of images. The
# describer may be a language model; here it is a table that comes with the data.

aligner = ConceptAligner(describer=TableDescriber(train.descriptions))
aligned = aligner.fit(detector.transform(space)).transform(space)
recall_aligned = recall_score(train.target, aligned.predict(), average=None)
for row in aligner.aligned_:
    print(f"{names[row]}: recall {recall[row]:.0%} -> {recall_aligned[row]:.0%}")
    print(f"    {aligner.descriptions_[names[row]]}")

# %%
# Without a describer, the centre of the cluster itself can stand in for a text. That works with
# this model, whose images and texts lie close together; with OpenAI's CLIP it does great harm:

by_centers = ConceptAligner(use_centers=True).fit(detector.transform(space))
without_text = by_centers.transform(space)
for title, each in {
    "zero-shot": space,
    "with descriptions": aligned,
    "without any text": without_text,
}.items():
    print(f"{title:20}{accuracy_score(train.target, each.predict()):.1%}")

# %%
# Problem two: a class that wins too often
# ----------------------------------------
# Other classes have a fitting text but resemble another class, which takes their images. The
# pairs that are confused most:

confused = confusion_matrix(train.target, aligned.predict())
np.fill_diagonal(confused, 0)
pairs = np.argwhere(confused >= np.sort(confused, axis=None)[-5])
for true, taken_for in sorted(pairs.tolist(), key=lambda pair: -confused[tuple(pair)]):
    print(f"{confused[true, taken_for]:3} times {names[true]} is taken for {names[taken_for]}")

# %%
# **Remedy: a margin.** In training, a sample of a class that is rarely predicted has to win over
# the classes that resemble it by a margin. :class:`~capkit.MarginCalibrator` computes it from
# how often each class is predicted with confidence, and from how alike the classes are:

calibrator = MarginCalibrator().fit(aligned)
MarginDisplay.from_estimator(calibrator)
plt.show()

# %%
# Both remedies, and training
# ---------------------------
# :class:`~capkit.CAPClassifier` does all of this, and trains. As in the paper it labels the images
# by itself, with ``pseudo_labels="zero_shot"``; ``aligner="passthrough"`` and ``m=0`` switch the
# remedies off. It is one run each, and here the four differ no more than two seeds do: on these
# easy images training corrects by itself what new texts correct before it. By default the images
# are looked at together first, which gains most.

test = load_digits(split="test")
describer = TableDescriber(train.descriptions)
settings = {
    "no remedy": {"aligner": "passthrough", "m": 0.0},
    "margin": {"aligner": "passthrough"},
    "new texts": {"describer": describer, "t": 2, "m": 0.0},
    "both": {"describer": describer, "t": 2},
    "default": {"pseudo_labels": "gaussian"},
}
for title, parameters in settings.items():
    parameters = {"pseudo_labels": "zero_shot", **parameters}
    model = CAPClassifier(backbone="glyph", tuning="adapter", random_state=0, **parameters)
    model.fit(train.images, class_names=names)
    labels = model.predict(test.images)
    accuracy = accuracy_score(names[test.target], labels)
    lowest = recall_score(names[test.target], labels, average=None).min()
    print(f"{title:12}accuracy {accuracy:.1%}, recall of the worst class {lowest:.1%}")

# %%
# The predictions are more even than they were:

after = np.array([np.sum(model.predict(train.images) == name) for name in names])
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
axes.step(range(len(names)), np.sort(counts), where="mid", color="tab:red", label="zero-shot")
axes.step(range(len(names)), np.sort(after), where="mid", color="tab:blue", label="CAP")
axes.set(xlabel="classes, from the rarest to the most frequent", ylabel="images predicted as")
axes.legend(frameon=False)
plt.show()
