"""What a training step costs, against the plain way and against its own variants.

Weights are random: they change nothing about the cost. Every figure stands next to its
baseline, measured in the same run, in turns. CPU seconds are those of all threads together and
barely change with what else the machine does; wall-clock seconds do.

    python benchmarks/training_step.py
    python benchmarks/training_step.py speed --classes 47
    python benchmarks/training_step.py memory --output memory.csv

Parts
-----
speed : one step of :class:`~capkit.training.module.DualAdapterModule` against the plain way:
    the text tower on all 77 tokens once for each of the three batches, and three image passes
    with a gradient, as in research code. Both compute the same loss and gradients, which is
    checked first.
memory : many classes, the text tower's activations recomputed chunk by chunk in the backward
    pass (what capkit does with so many), against storing them. Each in a process of its own,
    whose peak memory the operating system reports.
loop : what the classifier's training loop (skorch, choosing the first main samples, drawing the
    batches with their strong views, history, margin and learning rate) adds to the bare steps:
    the same module on the same batches, drawn beforehand. Both end with the same weights, which
    is checked first. Around the embedded model on the digits, whose steps are short, so that
    what is added weighs much; and around the model that the other parts take. The ratio is the
    median over turns, beside the quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn
from torch.nn import functional as F

from capkit import CLIPEncoder, MainSampleRenewal, MarginCalibrator
from capkit.backbones import Backbone, prompting
from capkit.datasets import load_digits
from capkit.decoding import TrainingPixels
from capkit.margins import margin_cross_entropy
from capkit.training.module import DualAdapterModule
from capkit.training.run import TrainingTask, train
from capkit.training.self_training import CAPSelfTraining, PseudoLabels, SelfTrainingState
from capkit.training.streams import ThreeStreams, TrainingImages
from capkit.tuning import PromptTuning
from capkit.tuning.base import BuiltTuning
from capkit.tuning.prompt import PromptedEncoder
from capkit.tuning.views import make_strong_view

STREAMS = ("main", "weak", "strong")


class Cost(NamedTuple):
    """Seconds of one step."""

    wall: float
    cpu: float


def build_backbone(name: str) -> Backbone:
    """An open_clip model with random weights."""
    model = open_clip.create_model(name, pretrained=None)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return Backbone(
        name=f"{name}/random",
        identity="random",
        model=model,
        tokenizer=open_clip.get_tokenizer(name),
        preprocess=PreprocessCfg(size=model.visual.image_size, mean=mean, std=std),
        embed_dim=model.visual.output_dim,
        device=torch.device("cpu"),
    )


def class_texts(n_classes: int) -> list[str]:
    """Prompts with names of three words each, nine tokens in all."""
    words = [
        "rose",
        "tulip",
        "lily",
        "daisy",
        "iris",
        "orchid",
        "poppy",
        "pansy",
        "violet",
        "lotus",
    ]
    names = itertools.islice(itertools.product(words, repeat=3), n_classes)
    return ["a photo of a " + " ".join(name) for name in names]


def build_module(backbone: Backbone, texts: list[str]) -> DualAdapterModule:
    """The module that the classifier trains, with the paper's sizes."""
    torch.manual_seed(0)
    encoder = PromptedEncoder(backbone, texts)
    return DualAdapterModule(encoder, backbone.logit_scale)


def draw_batches(batch_size: int, image_size: int) -> dict[str, Tensor]:
    """Random pixels for every stream."""
    shape = (batch_size, 3, image_size, image_size)
    return {name: torch.randint(0, 256, shape, dtype=torch.uint8) for name in STREAMS}


def keep_share(share: float) -> Callable[[Tensor], PseudoLabels]:
    """From logits (B, C) to pseudolabels of which this share is kept."""

    def pseudo_label(weak_logits: Tensor) -> PseudoLabels:
        confidence, labels = weak_logits.softmax(dim=1).max(dim=1)
        kept = torch.arange(len(labels)) < share * len(labels)
        return PseudoLabels(labels, confidence, kept)

    return pseudo_label


class PlainWay(nn.Module):
    """The same step without any of the savings, on the same prompts and adapters."""

    def __init__(self, module: DualAdapterModule) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, *, pseudo_label: Callable[[Tensor], PseudoLabels], **batches: Tensor
    ) -> dict[str, Any]:
        """Logits of every image of every batch; the strong views that are kept among them."""
        module = self.module
        outputs: dict[str, Any] = {}
        for name, pixels in batches.items():
            adapter = module.pseudo_adapter if name == "strong" else module.main_adapter
            images, texts = adapter(self.encode_images(pixels)), self.encode_texts()
            outputs[name] = module.logit_scale * images @ module.text_adapter(texts).T
        outputs["pseudo"] = pseudo_label(outputs.pop("weak").detach())
        outputs["strong"] = outputs["strong"][outputs["pseudo"].kept]
        return outputs

    def encode_texts(self) -> Tensor:
        """All 77 tokens of every text, block by block (MaPLe, section 3.2)."""
        encoder = self.module.encoder
        model, start = encoder.backbone.model, encoder.start
        prompts, _ = encoder.prompts()
        end = start + len(prompts[0])
        x = model.token_embedding(encoder.tokens)
        for layer, block in enumerate(model.transformer.resblocks):
            if layer < len(prompts):
                prompt = prompts[layer].expand(len(x), -1, -1)
                x = torch.cat([x[:, :start], prompt, x[:, end:]], dim=1)
            if layer == 0:
                x = x + model.positional_embedding
            x = block(x, attn_mask=model.attn_mask)
        ends = encoder.tokens.argmax(dim=-1)
        x = model.ln_final(x)[torch.arange(len(x)), ends]
        return F.normalize(x @ model.text_projection, dim=-1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Block by block, with a gradient."""
        encoder = self.module.encoder
        visual = encoder.backbone.model.visual
        _, prompts = encoder.prompts()
        x = visual.conv1(encoder.backbone.normalize(pixels)).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + visual.positional_embedding
        n_tokens = x.shape[1]
        for layer, block in enumerate(visual.transformer.resblocks):
            if layer < len(prompts):
                prompt = prompts[layer].expand(len(x), -1, -1)
                x = torch.cat([x[:, :n_tokens], prompt], dim=1)
            if layer == 0:
                x = visual.ln_pre(x)
            x = block(x)
        return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)


def loss_of(outputs: dict[str, Any]) -> Tensor:
    """Mean cross entropy of the main samples, and of the strong views that are kept."""
    targets = torch.arange(len(outputs["main"])) % outputs["main"].shape[1]
    pseudo = outputs["pseudo"]
    strong = F.cross_entropy(outputs["strong"], pseudo.labels[pseudo.kept], reduction="sum")
    return F.cross_entropy(outputs["main"], targets) + strong / pseudo.kept.sum().clamp(min=1)


def make_step(
    way: nn.Module, batches: dict[str, Tensor], share: float = 1.0
) -> Callable[[], None]:
    """One optimiser step of the paper's optimiser, with this share of the strong views kept."""
    optimizer = torch.optim.SGD(way.parameters(), lr=1e-4, momentum=0.9, weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(way(**batches, pseudo_label=keep_share(share))).backward()
        optimizer.step()

    return step


def measure(step: Callable[[], object]) -> Cost:
    """Cost of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def measure_in_turns(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, Cost]:
    """Smallest cost of every step; one after the other, so that all meet the same machine."""
    costs: dict[str, list[Cost]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            costs[name].append(measure(step))
    return {name: Cost(*map(min, zip(*given, strict=True))) for name, given in costs.items()}


def check_same_gradients(module: DualAdapterModule, batches: dict[str, Tensor]) -> None:
    """Both ways must compute the same step, or comparing their cost says nothing."""
    gradients = []
    for way in (module, PlainWay(module)):
        loss = loss_of(way(**batches, pseudo_label=keep_share(1.0)))
        used = [parameter for parameter in module.parameters() if parameter.requires_grad]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, used)]))
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    if difference > 1e-3:
        raise SystemExit(f"the two ways differ: gradients by {difference:.1e} of their length")
    print(f"gradients of both ways agree to {difference:.0e} of their length")


def report_speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What a step costs in both ways."""
    backbone = build_backbone(args.model)
    texts = class_texts(args.classes)
    module = build_module(backbone, texts)
    batches = draw_batches(args.batch_size, backbone.image_size)
    check_same_gradients(module, {name: batch[:2] for name, batch in batches.items()})
    steps = {
        "plain way": make_step(PlainWay(module), batches),
        "capkit, all strong views kept": make_step(module, batches),
    }
    for share in (0.75, 0.5, 0.0):
        fewer = build_module(backbone, texts)
        steps[f"capkit, {share:.0%} kept"] = make_step(fewer, batches, share)
    return _rows(args.classes, measure_in_turns(steps, args.repeats))


def report_memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What chunks with recomputed activations save, and what they cost."""
    context = multiprocessing.get_context("spawn")
    costs, peaks = {}, []
    for name, recompute in (("activations stored", False), ("activations recomputed", True)):
        with context.Pool(1) as pool:
            costs[name], peak = pool.apply(run_many_classes, (args, recompute))
        peaks.append(peak)
    rows = _rows(args.many_classes, costs)
    return [{**row, "peak GiB": f"{peak:.2f}"} for row, peak in zip(rows, peaks, strict=True)]


def run_many_classes(args: argparse.Namespace, recompute: bool) -> tuple[Cost, float]:
    """Cost of a step, and the process's peak memory in GiB."""
    torch.set_num_threads(args.threads)
    backbone = build_backbone(args.model)
    texts = class_texts(args.many_classes)
    module = build_module(backbone, texts)
    if not recompute:
        prompting.STORED_TOKENS = sys.maxsize  # of this process alone
    step = make_step(module, draw_batches(args.batch_size, backbone.image_size))
    cost = measure_in_turns({"step": step}, args.repeats)["step"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    return cost, peak


def report_loop(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What the classifier's training loop adds to the bare steps."""
    tasks = {
        "glyph": (make_glyph_task(args.batch_size), 10 * args.repeats),
        args.model: (make_random_task(args), args.repeats),
    }
    rows = []
    for model, (task, turns) in tasks.items():
        batches = list(make_stream(task))
        check_same_weights(task, batches)
        ways = partial(run_bare_steps, task, batches), partial(train, task)
        pairs = [(measure(ways[0]), measure(ways[1])) for _ in range(turns)]
        rows.append(
            {
                "model": model,
                "classes": task.self_training.n_classes,
                "steps": len(batches),
                "turns": turns,
                "bare steps, s": f"{np.median([bare.wall for bare, _ in pairs]):.2f}",
                "capkit's loop, s": f"{np.median([loop.wall for _, loop in pairs]):.2f}",
                "wall, relative": _quartiles([loop.wall / bare.wall for bare, loop in pairs]),
                "CPU, relative": _quartiles([loop.cpu / bare.cpu for bare, loop in pairs]),
            }
        )
    return rows


def _quartiles(values: list[float]) -> str:
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def make_glyph_task(batch_size: int) -> TrainingTask:
    """One epoch of prompt tuning on the digits."""
    data = load_digits(split="train")
    space = CLIPEncoder("glyph", class_names=data.class_names).fit_transform(data.images)
    tuning = PromptTuning(augment="affine", epochs=1, batch_size=batch_size)
    built = tuning.build(space, device="cpu", n_jobs=None)
    arrays = space.image_features, space.text_features
    return make_task(tuning, built, CAPSelfTraining, arrays, space.logit_scale)


class RandomSelfTraining(CAPSelfTraining):
    """Every image is a main sample of some class; three quarters of the strong views are kept."""

    def start(self) -> SelfTrainingState:
        """Main samples at random, the same in every call."""
        generator = np.random.default_rng(0)
        classes = generator.integers(0, self.n_classes, len(self.labels))
        return SelfTrainingState.before_training(classes, self.n_classes)

    def pseudo_label(self, weak_logits: Tensor) -> PseudoLabels:
        """Pseudolabels of which three quarters are kept, whatever their confidence."""
        return keep_share(0.75)(weak_logits)


def make_random_task(args: argparse.Namespace) -> TrainingTask:
    """One short epoch of prompt tuning on random images and a model with random weights."""
    backbone, texts = build_backbone(args.model), class_texts(args.classes)
    tuning = PromptTuning(epochs=1, steps_per_epoch=4, batch_size=args.batch_size)
    n_images, size = 4 * args.batch_size, backbone.image_size
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)
    whole = rng.integers(0, 256, (n_images, 2 * size, 2 * size, 3), dtype=np.uint8)
    images = TrainingPixels(pixels, whole, np.ones(n_images, dtype=np.float32))
    built = BuiltTuning(
        inputs=torch.from_numpy(pixels),
        strong_view=make_strong_view(tuning.augment, images),
        load_encoder=lambda device: partial(PromptedEncoder, backbone, texts),
    )
    arrays = [
        rng.standard_normal((n, backbone.embed_dim), dtype=np.float32)
        for n in (n_images, args.classes)
    ]
    return make_task(tuning, built, RandomSelfTraining, arrays, backbone.logit_scale)


def make_task(
    tuning: PromptTuning,
    built: BuiltTuning,
    self_training_class: type[CAPSelfTraining],
    arrays: Sequence[np.ndarray],
    logit_scale: float,
) -> TrainingTask:
    """The classifier's task without labels; `arrays` are the features of images and classes."""
    image_features, text_features = arrays
    labels, none = np.full(len(image_features), -1), np.empty(0, dtype=np.int64)
    renewal, calibrator = MainSampleRenewal(), MarginCalibrator()
    return TrainingTask(
        schedule=tuning.schedule(),
        seed=0,
        images=TrainingImages(built.inputs, labels),
        strong_view=built.strong_view,
        load_encoder=built.load_encoder,
        logit_scale=logit_scale,
        adapter_dim=tuning.adapter_dim,
        adapter_weight=tuning.adapter_weight,
        self_training=self_training_class(
            image_features=image_features,
            text_features=text_features,
            logit_scale=logit_scale,
            labels=labels,
            seen=none,
            aligned=none,
            tau=calibrator.tau,
            calibrator=calibrator,
            top_k=16,
            epochs=tuning.epochs,
            renew_every=renewal.every,
            ramp_fraction=renewal.ramp_fraction,
            max_share=renewal.max_share,
            max_per_class=renewal.max_per_class,
        ),
        fingerprint={},
        device="cpu",
    )


def make_stream(task: TrainingTask) -> ThreeStreams:
    """The batches that training draws in its first epoch."""
    return ThreeStreams(
        task.images,
        batch_size=task.schedule.batch_size,
        steps=task.schedule.steps_per_epoch,
        seed=task.seed,
        state=task.self_training.start(),
        strong_view=task.strong_view,
    )


def run_bare_steps(task: TrainingTask, batches: list) -> DualAdapterModule:
    """Forward, loss, backward and update, and nothing else."""
    schedule, pseudo_label = task.schedule, task.self_training.pseudo_label
    module = task.build_module("cpu")
    used = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        used, lr=0.0, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    margin = torch.zeros(2 * (task.self_training.n_classes,))
    for step, (inputs, targets) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        optimizer.zero_grad()
        outputs = module(**inputs, pseudo_label=pseudo_label)
        labels, _, kept = outputs["pseudo"]
        strong = margin_cross_entropy(outputs["strong"], labels[kept], margin)
        main = margin_cross_entropy(outputs["main"], targets["main"], margin)
        loss = main.mean() + strong.sum() / kept.sum().clamp(min=1)
        loss.backward()
        optimizer.step()
    return module


def check_same_weights(task: TrainingTask, batches: list) -> None:
    """Both must train the same, or comparing their cost says nothing."""
    states = [module.state_dict() for module in (run_bare_steps(task, batches), train(task)[1])]
    for name, weights in states[0].items():
        torch.testing.assert_close(weights, states[1][name], rtol=1e-4, atol=1e-5)


def _rows(n_classes: int, costs: dict[str, Cost]) -> list[dict[str, Any]]:
    """Rows of the table; the first cost is the baseline of the others."""
    baseline = next(iter(costs.values()))
    return [
        {
            "classes": n_classes,
            "step": name,
            "wall s": f"{cost.wall:.2f}",
            "CPU s": f"{cost.cpu:.2f}",
            "wall, relative": f"{cost.wall / baseline.wall:.2f}",
            "CPU, relative": f"{cost.cpu / baseline.cpu:.2f}",
        }
        for name, cost in costs.items()
    ]


REPORTS = {"speed": report_speed, "memory": report_memory, "loop": report_loop}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(REPORTS)}; all by default")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--classes", type=int, default=102)
    parser.add_argument("--many-classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", help="CSV file for the table")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(REPORTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(args.threads)
    print(f"{args.model}, batches of {args.batch_size}, {args.threads} threads")
    rows = [row for part in args.parts or REPORTS for row in REPORTS[part](args)]
    table = pd.DataFrame(rows).fillna("")
    print(table.to_string(index=False))
    if args.output:
        table.to_csv(args.output, index=False)


if __name__ == "__main__":
    main()
