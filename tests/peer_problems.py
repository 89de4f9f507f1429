"""Small problems of the peers that train: probabilities by hand."""

import numpy as np

from capkit.training.self_training import EpochPredictions


def fields_of(probabilities, labels=None, seen=(), epochs=4):
    """Fields of a peer's self-training whose frozen model gives these probabilities."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    n_images, n_classes = probabilities.shape
    return {
        "image_features": np.log(probabilities),
        "text_features": np.eye(n_classes),
        "logit_scale": 1.0,
        "labels": np.full(n_images, -1) if labels is None else np.array(labels),
        "seen": np.array(seen, dtype=np.int64),
        "epochs": epochs,
    }


def epoch_of(probabilities=None, indices=(), labels=(), confidence=()):
    """What a training tells at the end of an epoch."""
    return EpochPredictions(
        np.array(indices, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(confidence, dtype=np.float32),
        losses={"main": 0.5},
        learning_rate=0.01,
        logits=None if probabilities is None else np.log(probabilities),
    )


def draw_probabilities(n_images, n_classes, seed):
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.full(n_classes, 0.5), size=n_images) * 0.99 + 0.01 / n_classes
