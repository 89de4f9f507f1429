"""
Choosing parameters with a few labels
=====================================

:class:`~sklearn.model_selection.GridSearchCV` takes a :class:`~capkit.CAPClassifier` as it takes
any classifier. To compare settings, some images need a label; the others are marked with -1.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from capkit import CAPClassifier
from capkit.datasets import load_digits
from capkit.model_selection import LabeledKFold
from capkit.tuning import AdapterTuning

digits = load_digits(split="train")
test = load_digits(split="test")

labels = np.full(len(digits.target), -1)
labeled = np.random.default_rng(0).choice(len(labels), 120, replace=False)
labels[labeled] = digits.target[labeled]

# %%
# :class:`~capkit.model_selection.LabeledKFold` leaves the unlabeled images in every training
# part and scores on the labeled ones that were held back. The paradigm is ``"ul"``: the labels
# choose between settings, training itself does not look at them. Short trainings are enough for a
# choice.

model = CAPClassifier(
    paradigm="ul",
    backbone="glyph",
    tuning=AdapterTuning(epochs=4),
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
# The features of each image were computed once for all candidates. A dot is the score of one fold,
# the bar their mean:

candidates = [f"t={each['t']}, m={each['m']}" for each in search.cv_results_["params"]]
folds = [search.cv_results_[f"split{fold}_test_score"] for fold in range(search.n_splits_)]
figure, axes = plt.subplots(figsize=(7, 2.5), layout="constrained")
axes.barh(candidates, search.cv_results_["mean_test_score"], color="tab:blue", alpha=0.4)
for scores in folds:
    axes.plot(scores, candidates, "o", color="tab:blue")
axes.set(xlabel="accuracy on labeled images that were held back", xlim=(0.5, 1))
plt.show()

# %%
# Sixty labels a fold cannot tell settings that are a point or two apart. Where several are this
# close, keep the default.

print(f"chosen: {search.best_params_}")
print(f"on images that no part of the search saw: {search.score(test.images, test.target):.1%}")
