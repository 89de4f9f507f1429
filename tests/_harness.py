"""Subclasses through which scikit-learn's own checks can run: they read rows of a matrix.

The checks pass matrices of shape (n_samples, n_features), which no estimator of capkit takes, and
the estimators' tags say so. Here a row becomes an image of one pixel's height, or a row of a
ConceptSpace; from there on everything is the real estimator's own.
"""

import numpy as np
from scipy.special import expit
from sklearn.utils.validation import validate_data

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    ConceptSpace,
    GaussianTransduction,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.baselines import (
    CPLClassifier,
    FixMatchClassifier,
    FPLClassifier,
    GaussianTransductionClassifier,
    GRIPClassifier,
    LabelProbe,
    TransCLIPClassifier,
    UPLClassifier,
    ZeroShotClassifier,
    ZLaPClassifier,
)

N_CLASSES = 3


class _Rows:
    """Checks a matrix as scikit-learn's own estimators do, and passes on what it stands for."""

    def fit(self, X, y=None):
        rows = validate_data(self, X, dtype=np.float64)
        self._names = _class_names(y)
        super().fit(self._convert(rows), self._labels(y), **self._fit_arguments())
        self.n_features_in_ = rows.shape[1]  # of the matrix, which is what the checks look at
        return self

    def _labels(self, y):
        return y

    def _as_input(self, X):
        if not self.__sklearn_is_fitted__():
            return X  # for the estimator to refuse
        return self._convert(validate_data(self, X, reset=False, dtype=np.float64))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


class _RowsAsImages(_Rows):
    """Rows of numbers as gray images of shape (1, p)."""

    def _convert(self, rows):
        return expit(rows)[:, None, :]

    def _fit_arguments(self):
        return {"class_names": self._names}


class _RowsAsSpace(_Rows):
    """Rows as the image features of a space with random texts."""

    def _convert(self, rows):
        texts = np.random.RandomState(0).standard_normal((len(self._names), rows.shape[1]))
        return ConceptSpace(_unit(rows), _unit(texts), self._names)

    def _fit_arguments(self):
        return {}


def _class_names(y):
    """Names that `y` holds, or enough for the indices that it holds."""
    labels = np.unique([] if y is None else np.asarray(y))
    if labels.dtype.kind in "OU":
        return [str(label) for label in labels]
    labels = labels[np.isfinite(labels)]
    n_classes = max(2, int(labels.max()) + 1) if len(labels) else N_CLASSES
    return [f"class {index:04d}" for index in range(n_classes)]  # in alphabetical order


def _with_a_mark(y, n_classes):
    """`y` in which indices cannot be positions of sorted labels, which capkit would refuse."""
    labels = None if y is None else np.asarray(y)
    if labels is None or labels.dtype.kind not in "iu" or len(np.unique(labels)) == n_classes:
        return y
    marked = np.r_[-1, labels[1:]]
    return marked if isinstance(y, np.ndarray) else type(y)(marked)


def _unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


class _Transforms:
    def transform(self, X):
        return super().transform(self._as_input(X))


class _Classifies:
    """A classifier that does not learn from labels: one of them may be missing."""

    def _labels(self, y):
        return _with_a_mark(y, len(self._names))

    def predict(self, X):
        return super().predict(self._as_input(X))

    def predict_proba(self, X):
        return super().predict_proba(self._as_input(X))

    def decision_function(self, X):
        return super().decision_function(self._as_input(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # random texts know nothing of the rows
        return tags


class RowCLIPEncoder(_Transforms, _RowsAsImages, CLIPEncoder):
    """CLIPEncoder of rows."""


class RowFeatureEncoder(RowCLIPEncoder):
    """CLIPEncoder of rows, without class names: it gives an array."""

    def _fit_arguments(self):
        return {}


class RowMismatchDetector(_Transforms, _RowsAsSpace, MismatchDetector):
    """MismatchDetector of rows."""


class RowConceptAligner(_Transforms, _RowsAsSpace, ConceptAligner):
    """ConceptAligner of rows."""


class RowMarginCalibrator(_Transforms, _RowsAsSpace, MarginCalibrator):
    """MarginCalibrator of rows."""


class RowGaussianTransduction(_Transforms, _RowsAsSpace, GaussianTransduction):
    """GaussianTransduction of rows, none of whose classes is known."""

    def _labels(self, y):
        return None


class RowGaussianTransductionClassifier(
    _Classifies, _RowsAsImages, GaussianTransductionClassifier
):
    """GaussianTransductionClassifier of rows."""


class RowZeroShotClassifier(_Classifies, _RowsAsImages, ZeroShotClassifier):
    """ZeroShotClassifier of rows."""


class RowCAPClassifier(_Classifies, _Transforms, _RowsAsImages, CAPClassifier):
    """CAPClassifier of rows."""


class RowFPLClassifier(_Classifies, _Transforms, _RowsAsImages, FPLClassifier):
    """FPLClassifier of rows."""


class RowUPLClassifier(_Classifies, _Transforms, _RowsAsImages, UPLClassifier):
    """UPLClassifier of rows."""


class RowGRIPClassifier(_Classifies, _Transforms, _RowsAsImages, GRIPClassifier):
    """GRIPClassifier of rows."""


class RowCPLClassifier(_Classifies, _Transforms, _RowsAsImages, CPLClassifier):
    """CPLClassifier of rows."""


class RowFixMatchClassifier(_Classifies, _Transforms, _RowsAsImages, FixMatchClassifier):
    """FixMatchClassifier of rows."""


class RowTransCLIPClassifier(_Classifies, _RowsAsImages, TransCLIPClassifier):
    """TransCLIPClassifier of rows."""


class RowZLaPClassifier(_Classifies, _RowsAsImages, ZLaPClassifier):
    """ZLaPClassifier of rows."""


class RowLabelProbe(_Classifies, _RowsAsImages, LabelProbe):
    """LabelProbe of rows."""

    def _labels(self, y):
        return y  # it learns from all of them
