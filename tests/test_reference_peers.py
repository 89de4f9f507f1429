"""The whole training of each peer against the method written down line by line."""

import numpy as np
import pytest
import torch
from reference_model import (
    NAMES,
    SEED,
    STEPS,
    WEIGHT,
    C,
    ReferenceModel,
    assert_same_weights,
    draw_labels,
    draw_pictures,
    make_tuning,
)
from torch.nn import functional as F

from capkit import CLIPEncoder
from capkit.backbones import load_backbone
from capkit.baselines import (
    CPLClassifier,
    FixMatchClassifier,
    FPLClassifier,
    GRIPClassifier,
    UPLClassifier,
)
from capkit.datasets import make_concept_space

K, EPOCHS, ROUNDS, INTRA, INTER = 3, 6, 3, 0.6, 0.8
TAU = {"adapter": 0.6, "prompt": 0.46}  # so that some strong views are kept, and some are not


class Peer(ReferenceModel):
    """What the peers have in common: one branch, no margin, and with prompts no adapters."""

    def __init__(self, space, inputs, labels, paradigm, backbone):
        weight = WEIGHT if backbone is None else 0.0
        options = {"epochs": EPOCHS, "weight": weight, "two_branches": False}
        super().__init__(space, inputs, labels, paradigm, backbone, **options)
        self.tau = TAU["adapter" if backbone is None else "prompt"]

    def frozen(self):
        return torch.tensor(self.s * self.Z @ self.W.T)

    def logits(self, inputs):
        return self.branch(inputs, self.texts(), "main_adapter")

    def likelihood(self, logits):
        """Probability of each unlabeled image and of each class that it may belong to."""
        p = logits[self.unlabeled][:, self.allowed].softmax(dim=1)
        return {
            (i, c): p[row, column].item()
            for row, i in enumerate(self.unlabeled.tolist())
            for column, c in enumerate(self.allowed)
        }

    def share_out(self, likelihood, k):
        """The most probable pair first, until each class has k images."""
        main, room = np.full(self.n, -1), dict.fromkeys(self.allowed, k)
        for i, c in sorted(likelihood, key=lambda pair: -likelihood[pair]):
            if main[i] < 0 and room[c]:
                main[i], room[c] = c, room[c] - 1
        return main

    # -- what each peer fills in

    def choose(self, logits, number):
        """Pseudolabels of a round, counted from 1."""
        raise NotImplementedError

    rounds = 1

    def main_losses(self, logits, sample):
        return F.cross_entropy(logits, torch.tensor(self.main[sample]), reduction="none")

    def add_strong(self, parts, epoch, step, u):
        pass

    def labels_that_trained(self):
        return self.main

    # -- training

    def train(self):
        optimizer, self.history = self.make_optimizer(), []
        self.kept, self.last = [], np.full(self.n, -1)
        for epoch in range(EPOCHS):
            if epoch % (EPOCHS // self.rounds) == 0:
                with torch.no_grad():
                    logits = self.logits(self.inputs) if epoch else self.frozen()
                self.choose(logits, 1 + epoch * self.rounds // EPOCHS)
            sums = {}
            batches = zip(*self.draw_images(epoch, self.main), strict=True)
            for step, (labeled, sample, u) in enumerate(batches):
                parts = {}
                if sample is not None:
                    parts["main"] = self.main_losses(self.logits(self.inputs[sample]), sample)
                if labeled is not None:
                    truth = torch.tensor(self.labels[labeled])
                    logits = self.logits(self.inputs[labeled])
                    parts["labeled"] = F.cross_entropy(logits, truth, reduction="none")
                self.add_strong(parts, epoch, step, u)
                means = {n: x.mean() if len(x) else x.sum() for n, x in parts.items()}
                rate = self.learn(optimizer, sum(means.values()), epoch * STEPS + step)
                for name, mean in means.items():
                    sums[name] = sums.get(name, 0.0) + mean.item() / STEPS
            of_class = [int((self.labels_that_trained() == c).sum()) for c in range(C)]
            self.history.append(
                {f"{name}_loss": value for name, value in sums.items()}
                | {
                    "learning_rate": rate,
                    "n_main": int((self.main >= 0).sum()),
                    "class_counts": of_class,
                }
            )
        return self


class FPL(Peer):
    def choose(self, logits, number):
        self.main = self.share_out(self.likelihood(logits), K)


class UPL(Peer):
    def choose(self, logits, number):
        likelihood = self.likelihood(logits)
        predicted = {
            (i, c): p
            for (i, c), p in likelihood.items()
            if p == max(likelihood[i, other] for other in self.allowed)
        }
        self.main = self.share_out(predicted, K)


class GRIP(Peer):
    rounds = ROUNDS

    def choose(self, logits, number):
        k = np.ceil(number * len(self.unlabeled) / (ROUNDS * len(self.allowed)))
        self.main = self.share_out(self.likelihood(logits), k)


class CPL(Peer):
    rounds = ROUNDS

    def choose(self, logits, number):
        likelihood, of_image = self.likelihood(logits), {}
        n_taken = round(INTER * len(self.unlabeled) / len(self.allowed))
        for i in self.unlabeled.tolist():
            of_image[i] = sorted(self.allowed, key=lambda c: -likelihood[i, c])
        surest = [likelihood[i, of_image[i][0]] for i in of_image]
        threshold = np.quantile(surest, INTRA)
        self.main, self.candidates = np.full(self.n, -1), [[] for _ in range(self.n)]
        taken = {
            c: sorted(of_image, key=lambda i: -likelihood[i, c])[:n_taken] for c in self.allowed
        }
        for i, order in of_image.items():
            total = 0.0
            for c in order:
                if total < threshold and i in taken[c]:
                    self.candidates[i].append(c)
                total += likelihood[i, c]
            if self.candidates[i]:
                self.main[i] = self.candidates[i][0]

    def main_losses(self, logits, sample):
        p = logits.softmax(dim=1)
        each = zip(p, sample.tolist(), strict=True)
        return torch.stack([-row[self.candidates[i]].sum().log() for row, i in each])


class FixMatch(Peer):
    def choose(self, logits, number):
        self.main = self.share_out(self.likelihood(logits), K)
        self.main[np.isin(self.main, self.labels[self.labels >= 0])] = -1
        self.surest = np.full(self.n, 0.0)

    def add_strong(self, parts, epoch, step, u):
        with torch.no_grad():
            guess, sure = self.guess(self.logits(self.inputs[u]))
        kept = sure > self.tau
        logits = self.logits(self.strong_views(u, epoch, step)[kept])
        parts["pseudo"] = F.cross_entropy(logits, guess[kept], reduction="none")
        self.last[u], self.surest[u] = guess, sure
        self.kept.append(kept.float().mean().item())

    def labels_that_trained(self):
        return np.where(self.surest > self.tau, self.last, -1)


PEERS = {
    "FPL": (FPL, FPLClassifier, {"top_k": K}),
    "UPL": (UPL, UPLClassifier, {"top_k": K}),
    "GRIP": (GRIP, GRIPClassifier, {"rounds": ROUNDS}),
    "CPL": (
        CPL,
        CPLClassifier,
        {"rounds": ROUNDS, "intra_quantile": INTRA, "inter_share": INTER},
    ),
    "FixMatch": (FixMatch, FixMatchClassifier, {"top_k": K}),
}


@pytest.fixture(scope="module")
def problems(random_backbone):
    """Of each tuning: space, true classes, inputs, backbone."""
    planted = make_concept_space(
        n_images=90, n_classes=C, n_features=20, logit_scale=10.0, random_state=1
    )
    features = torch.tensor(planted.space.image_features)
    images, target = draw_pictures()
    space = CLIPEncoder(random_backbone, class_names=NAMES).fit_transform(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return {
        "adapter": (planted.space, planted.target, features, None),
        "prompt": (space, target, pixels, load_backbone(random_backbone)),
    }


def train_both(peer, tuning, paradigm, problems):
    """A fitted classifier, the reference, and the problem."""
    reference, classifier, parameters = PEERS[peer]
    if peer == "FixMatch":
        parameters = parameters | {"tau": TAU[tuning]}
    space, target, inputs, backbone = problems[tuning]
    labels = draw_labels(target, paradigm)
    classifier = classifier(
        paradigm, tuning=make_tuning(tuning, EPOCHS), random_state=SEED, **parameters
    )
    # labels that "ul" is given as well say only that predictions are to be indices
    classifier.fit(space, draw_labels(target, "ssl") if paradigm == "ul" else labels)
    return classifier, reference(space, inputs, labels, paradigm, backbone).train(), space, inputs


@pytest.mark.parametrize(
    ("peer", "tuning", "paradigm"),
    [
        *((peer, "adapter", paradigm) for peer in PEERS for paradigm in ("ul", "ssl", "trzsl")),
        ("FPL", "prompt", "ul"),
        ("GRIP", "prompt", "ul"),
        ("FixMatch", "prompt", "ul"),
        ("FixMatch", "prompt", "ssl"),
    ],
)
def test_training_is_the_method_line_by_line(peer, tuning, paradigm, problems):
    classifier, reference, space, inputs = train_both(peer, tuning, paradigm, problems)

    for row, expected in zip(classifier.history_, reference.history, strict=True):
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
        own = {f"{name}_loss" for name in ("main", "labeled", "pseudo")} & row.keys()
        assert own == {name for name in expected if name.endswith("_loss")}
    if peer == "FixMatch":
        kept = np.mean([row["kept"] for row in classifier.history_])
        assert kept == pytest.approx(np.mean(reference.kept))
        assert 0.1 < kept < 0.9, kept
    np.testing.assert_array_equal(classifier.pseudo_labels_, reference.labels_that_trained())
    assert_same_weights(classifier, reference)
    inference = "main" if tuning == "adapter" else "no_adapters"
    expected = reference.probabilities(inputs, inference)
    found = classifier.predict_proba(space)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    sure = np.sort(expected, axis=1)
    clear = sure[:, -1] - sure[:, -2] > 1e-3
    assert clear.mean() > 0.9
    predicted = classifier.classes_[expected.argmax(axis=1)]
    np.testing.assert_array_equal(classifier.predict(space)[clear], predicted[clear])
