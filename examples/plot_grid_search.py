"""
Choosing parameters with a few labels
=====================================

:class:`~sklearn.model_selection.GridSearchCV` takes a :class:`~capkit.CAPClassifier` as it takes
any classifier. To compare settings, some images need a label; the others are marked with -1.
"""

import numpy as np
from sklearn.model_selection import GridSearchCV

from capkit import CAPClassifier
from capkit.datasets import load_digits
from capkit.model_selection import LabeledKFold

digits = load_digits(split="train")
test = load_digits(split="test")

labels = np.full(len(digits.target), -1)
labeled = np.random.default_rng(0).choice(len(labels), 120, replace=False)
labels[labeled] = digits.target[labeled]

# %%
# :class:`~capkit.model_selection.LabeledKFold` leaves the unlabeled images in every training
# part and scores on the labeled ones that were held back. The paradigm is ``"ul"``: the labels
# choose between settings, training itself does not look at them.

model = CAPClassifier(
    paradigm="ul",
    backbone="glyph",
    tuning="adapter",
    class_names=digits.class_names,
    random_state=0,
)
search = GridSearchCV(
    model,
    {"t": [1, 3], "m": [0, 12]},
    cv=LabeledKFold(2),
)
search.fit(digits.images, labels)

# %%
# The features of each image were computed once for all candidates.

for row in np.argsort(-search.cv_results_["mean_test_score"], kind="stable"):
    score = search.cv_results_["mean_test_score"][row]
    print(f"{score:.1%}", search.cv_results_["params"][row])

# %%
print(f"on images that no part of the search saw: {search.score(test.images, test.target):.1%}")
