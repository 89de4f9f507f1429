"""Temperature of probabilities."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

__all__ = ["fit_temperature"]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature under which the labels are most probable.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Parameters
    ----------
    logits : ndarray of shape (n, C)
    labels : ndarray of shape (n,), int64

    Returns
    -------
    float
        Between 0.01 and 100.
    """
    logits = logits.astype(np.float64)
    of_label = logits[np.arange(len(labels)), labels]

    def negative_log_likelihood(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * scale, axis=1) - of_label * scale))

    bounds = (np.log(0.01), np.log(100.0))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    return float(np.exp(found.x))
