"""
The stages in a pipeline
========================

:class:`~capkit.CAPClassifier` runs five stages before it trains. In a
:class:`~sklearn.pipeline.Pipeline` they can be looked at, replaced, and kept between fits.
"""

import tempfile
import time

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
# With ``memory``, the stages whose parameters did not change are not run again.

folder = tempfile.TemporaryDirectory()
pipeline = Pipeline(
    [
        ("encode", CLIPEncoder(backbone="glyph", class_names=train.class_names)),
        ("detect", MismatchDetector(random_state=0)),
        ("align", ConceptAligner()),
        ("transduce", GaussianTransduction()),
        ("calibrate", MarginCalibrator()),
        ("cap", CAPClassifier(tuning=AdapterTuning(epochs=10), random_state=0)),
    ],
    memory=folder.name,
)
pipeline

# %%
for m in (12, 4):
    start = time.perf_counter()
    pipeline.set_params(calibrate__m=m).fit(train.images)
    seconds = time.perf_counter() - start
    accuracy = pipeline.score(test.images, truth)
    print(f"m={m}: accuracy {accuracy:.1%}, {seconds:.1f} s")

# %%
# Each stage gives a :class:`~capkit.ConceptSpace`, which can be looked at:

space = pipeline[:-1].transform(test.images)
print(space)
print("mismatched:", [space.class_names[row] for row in space.mismatch.mismatched])

# %%
# It is also an array of image features, so any step of scikit-learn can stand behind it:

encoder = CLIPEncoder(backbone="glyph", class_names=train.class_names)
probe = make_pipeline(encoder, PCA(32, random_state=0), LogisticRegression(max_iter=1000))
probe.fit(train.images, train.target)
print(f"with all {len(train.target)} labels: {probe.score(test.images, test.target):.1%}")

# %%
folder.cleanup()
