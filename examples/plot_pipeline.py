"""
The stages in a pipeline
========================

:class:`~capkit.CAPClassifier` runs five stages before it trains. In a
:class:`~sklearn.pipeline.Pipeline` they can be looked at, replaced, and kept between fits.
"""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    GaussianTransduction,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.datasets import load_digits
from capkit.tuning import AdapterTuning

train, test = load_digits(split="train"), load_digits(split="test")
truth = np.array(test.class_names)[test.target]

# %%
# With ``memory``, what each stage gives is kept on disk.

kept = Path("pipeline_cache")
pipeline = Pipeline(
    [
        ("encode", CLIPEncoder(backbone="glyph", class_names=train.class_names)),
        ("detect", MismatchDetector(random_state=0)),
        ("align", ConceptAligner()),
        ("transduce", GaussianTransduction()),
        ("calibrate", MarginCalibrator()),
        ("cap", CAPClassifier(tuning=AdapterTuning(epochs=10), random_state=0)),
    ],
    memory=str(kept),
)
pipeline

# %%
# The second fit differs in the margin alone. The images are neither encoded nor clustered again;
# what these stages gave is read from disk:

for m in (12, 4):
    before = len(list(kept.rglob("output.pkl")))
    pipeline.set_params(calibrate__m=m).fit(train.images)
    run = len(list(kept.rglob("output.pkl"))) - before
    accuracy = pipeline.score(test.images, truth)
    print(f"m={m}: {run} of {len(pipeline) - 1} stages run, accuracy {accuracy:.1%}")

# %%
# Each stage gives a :class:`~capkit.ConceptSpace`, which can be looked at:

space = pipeline[:-1].transform(test.images)
print(space)
print("mismatched:", [space.class_names[row] for row in space.mismatch.mismatched])

# %%
# It is also an array of image features, so any step of scikit-learn can follow. Here are
# the two main directions of the features. The model has never seen handwriting, yet the images of
# a class lie close together:

flat = PCA(2, random_state=0).fit_transform(space)
figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
for row, name in enumerate(space.class_names):
    axes.scatter(*flat[test.target == row].T, s=8, color=f"C{row}", label=name)
axes.set(xticks=[], yticks=[])
figure.legend(loc="outside right", frameon=False, markerscale=2)
plt.show()

# %%
# A classifier with all the labels, for comparison:

encoder = CLIPEncoder(backbone="glyph", class_names=train.class_names)
probe = make_pipeline(encoder, PCA(32, random_state=0), LogisticRegression(max_iter=1000))
probe.fit(train.images, train.target)
print(f"with all {len(train.target)} labels: {probe.score(test.images, test.target):.1%}")

# %%
shutil.rmtree(kept)
