"""The whole training against the method written down line by line, without any of capkit's parts.

What is shared is what the method leaves open: the first weights, which images a step draws, and
the strong views. All else is the formulas of ``docs/method.rst``, in plain torch and loops.
"""

import numpy as np
import pytest
import torch
from reference_model import (
    NAMES,
    SEED,
    STEPS,
    C,
    ReferenceModel,
    assert_same_weights,
    draw_labels,
    draw_pictures,
    make_tuning,
)
from torch.nn import functional as F

from capkit import CAPClassifier, CLIPEncoder, ConceptAligner, MismatchDetector
from capkit.backbones import load_backbone
from capkit.datasets import make_concept_space
from capkit.renewal import MainSampleRenewal

TAU = {"adapter": 0.8, "prompt": 0.4}  # so that some strong views are kept, and some are not
M, K, EPOCHS, RENEW_EVERY = 6.0, 3, 5, 2


class Reference(ReferenceModel):
    """The method of one tuning."""

    def __init__(self, space, inputs, labels, paradigm, backbone):
        super().__init__(space, inputs, labels, paradigm, backbone, epochs=EPOCHS)
        self.tau = TAU["adapter" if backbone is None else "prompt"]
        self.aligned = set() if space.alignment is None else set(space.alignment.aligned.tolist())

    # -- pseudolabels (sections 1 and 3)

    def first_main_samples(self):
        """k a class: by similarity to the new text where it has one, else by confidence."""
        main = np.full(self.n, -1)
        room = dict.fromkeys(range(C), K)
        cosine = self.Z @ self.W.T
        wishes = [
            (-cosine[i, c], i, c)
            for c in self.aligned & set(self.allowed)
            for i in self.unlabeled.tolist()
        ]
        label, confidence = (v.numpy() for v in self.guess(torch.tensor(self.s * cosine)))
        others = [
            (-confidence[i], i, int(label[i]))
            for i in self.unlabeled.tolist()
            if label[i] not in self.aligned
        ]
        for _, i, c in [*sorted(wishes), *sorted(others)]:
            if main[i] < 0 and room[c]:
                main[i], room[c] = c, room[c] - 1
        return main

    def renew(self, main, label, confidence, epoch):
        """A class's most confident images of the epoch first, then the ones that it had."""
        n_u = len(self.unlabeled)
        largest = max(K, min(1000, 0.8 * n_u / len(self.allowed)))
        target = int(K + (largest - K) * min(1, epoch / (0.7 * EPOCHS)))
        renewed = np.full(self.n, -1)
        for c in range(C):
            predicted = sorted(np.flatnonzero(label == c), key=lambda i: (-confidence[i], i))
            renewed[predicted[:target]] = c
        for c in range(C):
            old = [i for i in np.flatnonzero(main == c) if renewed[i] < 0]
            old.sort(key=lambda i: (confidence[i] if label[i] >= 0 else 0, i))
            renewed[old[: target - (renewed == c).sum()]] = c
        return renewed

    # -- the margin (section 2)

    def margin(self, label, confidence):
        def cos(a, b):
            return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

        v = [
            self.Z[label == c].mean(axis=0) if (label == c).any() else self.W[c] for c in range(C)
        ]
        sigma = [np.sum((label == c) & (confidence > self.tau)) for c in range(C)]
        most = max(sigma[c] for c in self.allowed)
        delta = [0.0 if c in self.seen or not most else 1 - sigma[c] / most for c in range(C)]
        margin = np.zeros((C, C))
        for i in range(C):
            for j in range(C):
                similarity = max(cos(v[i], v[j]), cos(self.W[i], self.W[j]))
                margin[i, j] = similarity * M * max(delta) * delta[i]
        return margin

    def loss(self, logits, target, margin):
        rows = []
        for z, y in zip(logits, target.tolist(), strict=True):
            shifted = z + margin[y] * (1 - F.one_hot(torch.tensor(y), C))
            rows.append(-torch.log_softmax(shifted, dim=0)[y])
        return torch.stack(rows)

    # -- training (section 3)

    def train(self):
        optimizer = self.make_optimizer()
        main, margin, history = self.first_main_samples(), np.zeros((C, C)), []
        last_label = np.full(self.n, -1)
        last_confidence = np.zeros(self.n)
        for epoch in range(EPOCHS):
            sums, drawn = {}, []
            label, confidence = np.full(self.n, -1), np.zeros(self.n)
            n_main = int((main >= 0).sum())
            batches = zip(*self.draw_images(epoch, main), strict=True)
            for step, (labeled, sample, u) in enumerate(batches):
                texts, bound = self.texts(), torch.tensor(margin, dtype=torch.float32)
                with torch.no_grad():
                    weak = self.branch(self.inputs[u], texts, "main_adapter")
                guess, sure = self.guess(weak)
                kept = sure > self.tau
                parts = {"main": self.branch(self.inputs[sample], texts, "main_adapter")}
                parts["main"] = self.loss(parts["main"], torch.tensor(main[sample]), bound).mean()
                if labeled is not None:
                    logits = self.branch(self.inputs[labeled], texts, "main_adapter")
                    truth = torch.tensor(self.labels[labeled])
                    parts["labeled"] = self.loss(logits, truth, bound).mean()
                parts["pseudo"] = torch.tensor(0.0)
                if kept.any():
                    strong = self.strong_views(u, epoch, step)[kept]
                    logits = self.branch(strong, texts, "pseudo_adapter")
                    parts["pseudo"] = self.loss(logits, guess[kept], bound).mean()
                rate = self.learn(optimizer, sum(parts.values()), epoch * STEPS + step)
                for name, part in parts.items():
                    sums[name] = sums.get(name, 0.0) + part.item() / STEPS
                label[u], confidence[u] = guess, sure
                drawn += sure.tolist()
            counts = [int(np.sum((label == c) & (confidence > self.tau))) for c in range(C)]
            off_diagonal = margin[~np.eye(C, dtype=bool)]
            history.append(
                {f"{name}_loss": value for name, value in sums.items()}
                | {
                    "epoch": epoch + 1,
                    "loss": sum(sums.values()),
                    "learning_rate": rate,
                    "kept": np.mean(np.array(drawn) > self.tau),
                    "class_counts": counts,
                    "n_main": n_main,
                    "margin_mean": off_diagonal.mean(),
                    "margin_max": off_diagonal.max(),
                }
            )
            last_label = np.where(label >= 0, label, last_label)
            last_confidence = np.where(label >= 0, confidence, last_confidence)
            margin = self.margin(label, confidence)
            if (epoch + 1) % RENEW_EVERY == 0:
                main = self.renew(main, label, confidence, epoch + 1)
        self.history, self.margin_, self.main = history, margin, main
        self.pseudo = np.where(last_confidence > self.tau, last_label, -1)
        return self


@pytest.fixture(scope="module")
def pictures():
    return draw_pictures()


def describe(class_name, n):
    return [f"an animal, {class_name}, seen from afar", f"{class_name} at night"][:n]


def make_problem(tuning, backbone_path, pictures, describer):
    """Space as it is and as aligned, the truth, and the backbone for prompts."""
    if tuning == "adapter":
        problem = make_concept_space(
            n_images=90, n_classes=C, n_features=20, logit_scale=10.0, random_state=1
        )
        space, target, backbone = problem.space, problem.target, None
    else:
        images, target = pictures
        space = CLIPEncoder(backbone_path, class_names=NAMES).fit_transform(images)
        backbone = load_backbone(backbone_path)
    detected = MismatchDetector(t=4, random_state=SEED).fit_transform(space)
    aligner = ConceptAligner(describer, use_centers=True, accept="always")
    aligned = aligner.fit_transform(detected)
    assert len(aligned.alignment.aligned)
    return space, aligned, target, backbone


@pytest.mark.filterwarnings("ignore:these parameters cannot be saved.*describer")
@pytest.mark.parametrize("paradigm", ["ul", "ssl", "trzsl"])
@pytest.mark.parametrize(
    ("tuning", "describer"), [("adapter", None), ("prompt", None), ("prompt", describe)]
)
def test_training_is_the_method_line_by_line(
    tuning, describer, paradigm, random_backbone, pictures, tmp_path
):
    space, aligned, target, backbone = make_problem(tuning, random_backbone, pictures, describer)
    labels = draw_labels(target, paradigm)
    if tuning == "adapter":
        inputs = torch.tensor(space.image_features)
    else:
        inputs = torch.from_numpy(pictures[0]).permute(0, 3, 1, 2)
    reference = Reference(aligned, inputs, labels, paradigm, backbone).train()

    classifier = make_classifier(tuning, paradigm, describer).fit(space, labels)

    for row, expected in zip(classifier.history_, reference.history, strict=True):
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert 0.05 < np.mean([row["kept"] for row in classifier.history_]) < 0.95
    assert classifier.history_[-1]["n_main"] > classifier.history_[0]["n_main"]
    assert max(row["margin_max"] for row in classifier.history_) > 0.5
    np.testing.assert_allclose(classifier.margin_matrix_, reference.margin_, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(classifier.pseudo_labels_, reference.pseudo)
    np.testing.assert_array_equal(classifier.main_labels_, reference.main)
    assert_same_weights(classifier, reference)

    classifier.save(tmp_path / "model")
    loaded = CAPClassifier.load(tmp_path / "model")
    names = np.array(space.class_names)
    order = np.argsort(names) if paradigm == "ul" else np.arange(C)  # columns of classes_
    for inference in ("main", "pseudo", "ensemble", *["no_adapters"] * (tuning == "prompt")):
        expected = reference.probabilities(inputs, inference)[:, order]
        for each in (classifier, loaded):
            found = each.set_params(inference=inference).predict_proba(space)
            np.testing.assert_allclose(found, expected, atol=1e-3)


def make_classifier(tuning, paradigm, describer):
    return CAPClassifier(
        paradigm,
        pseudo_labels="zero_shot",
        t=4,
        aligner=ConceptAligner(describer, use_centers=True, accept="always"),
        tuning=make_tuning(tuning, EPOCHS),
        tau=TAU[tuning],
        m=M,
        top_k=K,
        renewal=MainSampleRenewal(every=RENEW_EVERY),
        random_state=SEED,
    )
