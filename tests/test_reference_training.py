"""The whole training against the method written down line by line, without any of capkit's parts.

What is shared is what the method leaves open: the first weights, which images a step draws, and
the strong views. All else is the formulas of ``docs/method.rst``, in plain torch and loops.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from capkit import CAPClassifier, CLIPEncoder, ConceptAligner, MismatchDetector
from capkit._seeding import seeded
from capkit.backbones import load_backbone
from capkit.datasets import make_concept_space
from capkit.decoding import TrainingPixels
from capkit.renewal import MainSampleRenewal
from capkit.training.module import DualAdapterModule
from capkit.training.streams import epoch_positions
from capkit.tuning import AdapterTuning, PromptTuning
from capkit.tuning.adapter import FeatureEncoder, FeatureView
from capkit.tuning.prompt import PromptedEncoder
from capkit.tuning.views import make_strong_view

NAMES = ["owl", "red fox", "emu", "cat", "dog", "bee"]
C, M, K, SEED = len(NAMES), 6.0, 3, 0
TAU = {"adapter": 0.8, "prompt": 0.4}  # so that some strong views are kept, and some are not
EPOCHS, STEPS, BATCH, RENEW_EVERY, LR, DECAY, MOMENTUM = 5, 3, 8, 2, 0.02, 0.05, 0.9
DIM, WEIGHT, DEPTH, LENGTH = 8, 0.4, 2, 2


class Reference:
    """The method of one tuning: `inputs` are pixels or features, `p` its parameters by name."""

    def __init__(self, space, inputs, labels, paradigm, backbone, strong_view):
        self.space, self.inputs, self.backbone, self.view = space, inputs, backbone, strong_view
        self.Z, self.W, self.s = space.image_features, space.text_features, space.logit_scale
        self.labels, self.n = labels, len(labels)
        self.tau = TAU["adapter" if backbone is None else "prompt"]
        self.aligned = set() if space.alignment is None else set(space.alignment.aligned.tolist())
        self.seen = set(labels[labels >= 0].tolist()) if paradigm == "trzsl" else set()
        self.allowed = [c for c in range(C) if c not in self.seen]
        self.unlabeled = np.flatnonzero(labels < 0)
        with seeded(SEED):
            if backbone is None:
                encoder = FeatureEncoder(torch.tensor(self.W))
            else:
                encoder = PromptedEncoder(
                    backbone, space.prompts, prompt_length=LENGTH, prompt_depth=DEPTH
                )
            module = DualAdapterModule(encoder, self.s, adapter_dim=DIM, adapter_weight=WEIGHT)
        self.p = {k: v.clone().requires_grad_() for k, v in module.state_dict().items()}

    # -- the model (section 3)

    def adapt(self, name, x):
        hidden = F.relu(x @ self.p[f"{name}.fc1.weight"].T + self.p[f"{name}.fc1.bias"])
        residual = hidden @ self.p[f"{name}.fc2.weight"].T + self.p[f"{name}.fc2.bias"]
        return F.normalize(x + WEIGHT * residual, dim=-1)

    def text_prompt(self, layer):
        return self.p[f"encoder.prompts.text.{layer}"]

    def visual_prompt(self, layer):
        weight, bias = (
            self.p[f"encoder.prompts.to_visual.{layer}.{k}"] for k in ("weight", "bias")
        )
        return self.text_prompt(layer) @ weight.T + bias

    def texts(self):
        if self.backbone is None:
            return torch.tensor(self.W)
        model, rows = self.backbone.model, []
        shift = torch.zeros_like(torch.tensor(self.W))
        if self.space.alignment is not None:
            shift = torch.tensor(self.space.alignment.shift)
        for text, move in zip(self.space.prompts, shift, strict=True):
            ids = self.backbone.tokenizer.encode(text)
            ids = [49406] + (ids[LENGTH:] if text.startswith("a photo ") else ids) + [49407]
            x = model.token_embedding(torch.tensor(ids))
            x = torch.cat([x[:1], self.text_prompt(0), x[1:]])
            x = (x + model.positional_embedding[: len(x)])[None]
            for layer, block in enumerate(model.transformer.resblocks):
                if 0 < layer < DEPTH:
                    prompt = self.text_prompt(layer)[None]
                    x = torch.cat([x[:, :1], prompt, x[:, 1 + LENGTH :]], dim=1)
                x = block(x, attn_mask=model.attn_mask[: x.shape[1], : x.shape[1]])
            row = F.normalize(model.ln_final(x)[0, -1] @ model.text_projection, dim=-1)
            rows.append(F.normalize(row + move, dim=-1) if move.any() else row)
        return torch.stack(rows)

    def images(self, inputs):
        if self.backbone is None:
            return F.normalize(inputs, dim=-1)
        visual = self.backbone.model.visual
        x = visual.conv1((inputs.float() / 255 - 0.5) / 0.5).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + visual.positional_embedding
        n_tokens = x.shape[1]
        for layer, block in enumerate(visual.transformer.resblocks):
            if layer < DEPTH:
                prompt = self.visual_prompt(layer).expand(len(x), -1, -1)
                x = torch.cat([x[:, :n_tokens], prompt], dim=1)
            x = block(visual.ln_pre(x) if layer == 0 else x)
        return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)

    def branch(self, inputs, texts, adapter):
        images = self.images(inputs)
        return self.s * self.adapt(adapter, images) @ self.adapt("text_adapter", texts).T

    # -- pseudolabels (sections 1 and 3)

    def guess(self, logits):
        """Class and probability, over the classes that unlabeled images may belong to."""
        p = torch.full_like(logits, 0.0)
        p[:, self.allowed] = logits[:, self.allowed].softmax(dim=1)
        confidence, label = p.max(dim=1)
        return label, confidence

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
        optimizer = torch.optim.SGD(self.p.values(), LR, momentum=MOMENTUM, weight_decay=DECAY)
        main, margin, history = self.first_main_samples(), np.zeros((C, C)), []
        last_label = np.full(self.n, -1)
        last_confidence = np.zeros(self.n)
        for epoch in range(EPOCHS):
            sums, drawn = {}, []
            label, confidence = np.full(self.n, -1), np.zeros(self.n)
            n_main = int((main >= 0).sum())
            sources = [np.flatnonzero(self.labels >= 0), np.flatnonzero(main >= 0), self.unlabeled]
            batches = [
                source[epoch_positions(len(source), STEPS, BATCH, (SEED, epoch, stream))]
                if len(source)
                else None
                for stream, source in enumerate(sources)
            ]
            for step in range(STEPS):
                at = epoch * STEPS + step
                progress = (at - STEPS) / (EPOCHS * STEPS - STEPS)
                cosine = LR * (1 + math.cos(math.pi * progress)) / 2
                rate = LR * (at + 1) / STEPS if at < STEPS else cosine
                labeled, sample, u = (b if b is None else b[step] for b in batches)
                key = np.random.SeedSequence([SEED, epoch, step, 3])
                with seeded(int(key.generate_state(1, np.uint64)[0] >> 1)):
                    strong = self.view(u)
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
                    logits = self.branch(strong[kept], texts, "pseudo_adapter")
                    parts["pseudo"] = self.loss(logits, guess[kept], bound).mean()
                for group in optimizer.param_groups:
                    group["lr"] = rate
                for value in self.p.values():
                    value.grad = torch.zeros_like(value)  # decays even where no view is kept
                sum(parts.values()).backward()
                optimizer.step()
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

    # -- prediction

    @torch.no_grad()
    def probabilities(self, inputs, inference):
        """With prompts; of the adapters those that `inference` says."""
        texts, images = self.texts(), self.images(inputs)
        if inference == "no_adapters":
            return (self.s * images @ texts.T).softmax(dim=1).numpy()
        adapters = ["main", "pseudo"] if inference == "ensemble" else [inference]
        each = [self.branch(inputs, texts, f"{a}_adapter").softmax(dim=1) for a in adapters]
        return torch.stack(each).mean(dim=0).numpy()


def draw_labels(target, paradigm):
    """Two labels a class (ssl), or all of the first three classes (trzsl)."""
    if paradigm == "ul":
        return np.full(len(target), -1)
    if paradigm == "trzsl":
        return np.where(target < 3, target, -1)
    y = np.full(len(target), -1)
    for c in range(C):
        y[np.flatnonzero(target == c)[:2]] = c
    return y


@pytest.fixture(scope="module")
def pictures():
    """Colours with noise, so that the random model predicts some classes more than others."""
    generator = np.random.default_rng(3)
    target = np.arange(90) % C
    colours = generator.integers(0, 255, (C, 1, 1, 3))
    noise = generator.integers(-60, 60, (90, 32, 32, 3))
    return np.clip(colours[target] + noise, 0, 255).astype(np.uint8), target


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
        view = FeatureView(inputs, 0.5)
    else:
        inputs = torch.from_numpy(pictures[0]).permute(0, 3, 1, 2)
        view = make_strong_view("affine", TrainingPixels(pictures[0], pictures[0], np.ones(90)))
    reference = Reference(aligned, inputs, labels, paradigm, backbone, view).train()

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
    for name, value in reference.p.items():
        if "adapter" in name:
            np.testing.assert_allclose(
                classifier._model.weights[name], value.detach(), atol=2e-5, err_msg=name
            )
    with torch.no_grad():
        np.testing.assert_allclose(classifier.text_features_, reference.texts(), atol=2e-5)
    if tuning == "prompt":
        for layer in range(DEPTH):
            expected = reference.visual_prompt(layer).detach()
            found = classifier._model.weights["visual_prompts"][layer]
            np.testing.assert_allclose(found, expected, atol=2e-5)

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
    training = {
        "epochs": EPOCHS,
        "steps_per_epoch": STEPS,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "learning_rate": LR,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
        "adapter_dim": DIM,
        "adapter_weight": WEIGHT,
    }
    if tuning == "prompt":
        what = PromptTuning(prompt_depth=DEPTH, prompt_length=LENGTH, augment="affine", **training)
    else:
        what = AdapterTuning(augment=0.5, **training)
    return CAPClassifier(
        paradigm,
        pseudo_labels="zero_shot",
        t=4,
        aligner=ConceptAligner(describer, use_centers=True, accept="always"),
        tuning=what,
        tau=TAU[tuning],
        m=M,
        top_k=K,
        renewal=MainSampleRenewal(every=RENEW_EVERY),
        random_state=SEED,
    )
