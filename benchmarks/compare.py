"""CAP beside the methods to compare with, without one part at a time, and on unequal classes.

    python benchmarks/compare.py --quick
    python benchmarks/compare.py --real FOLDER --results docs/results --plots docs/images

The first takes minutes and writes to build/benchmark; the second is what the documentation shows.
Finished runs are kept in --memory: a benchmark that was stopped goes on, and one with more seeds
runs what is new. The parts, all of them or those that --parts names:

peers       Every method in the three paradigms, adapters where something is trained: on the two
            sets that come with capkit, judged on their test images, and on half of each set of
            real features, judged on that half ("adapted") and on the other one ("new").
prompt_tuning
            Prompts in place of adapters, on the sets that come with capkit (ul).
ablation    CAP as in the paper, and as by default, without one part at a time (ul, adapters).
longtail    Unequal classes (ul, adapters): the images adapted to are subsampled so that the sizes
            of classes fall geometrically to a 10th, 20th or 50th of the largest, or are all as
            the smallest; the new images are all that there are.

published   TransCLIP and ZLaP on all images of WHU-RS19, with its single prompt and with the mean
            of its 106 prompts, for which TransCLIP's authors publish 93.9 and 90.3 percent.

FOLDER holds one .npz a set, as benchmarks/real_features.py reads them. Labels that a paradigm
shows are two images a class (ssl), or all images of 62% of the classes (trzsl). Nothing is tuned
here: methods have their defaults. The seconds of a fit are those beside other fits, with --jobs.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from real_features import load
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    Comparison,
    ConceptAligner,
    ConceptSpace,
    GaussianTransduction,
    MainSampleRenewal,
    MarginCalibrator,
    compare,
)
from capkit.baselines import GaussianTransductionClassifier
from capkit.comparison import all_methods
from capkit.datasets import load_digits, load_handwriting
from capkit.describers import TableDescriber
from capkit.model_selection import PARADIGMS, subsample_long_tail
from capkit.tuning import AdapterTuning, PromptTuning

# 400 steps: under a minute on two cores. Characters do not survive a flip, and a crop of 8% of one
# is no character, so that the strong view is an affine map.
PROMPTS = PromptTuning(epochs=20, steps_per_epoch=20, augment="affine")
IMBALANCES, QUICK_IMBALANCES = (1, 10, 20, 50), (1, 50)
LEAST_GAIN = -20  # what is drawn; without labels of a class, labels alone lose all
OF_LONG_TAIL = ("digits", "handwriting", "oxford_pets25", "whurs19")  # enough images a class
OURS = ("CAP", "CAP (paper)", "Gaussian transduction")


class Problem(NamedTuple):
    """Images, encoded: those to adapt to and, where a set has them apart, new ones."""

    space: ConceptSpace
    target: np.ndarray
    new_space: ConceptSpace | None = None
    new_target: np.ndarray | None = None
    descriptions: dict | None = None


# -- the data


def read_embedded():
    """The two sets that come with capkit."""
    problems = {}
    for name, read in (("digits", load_digits), ("handwriting", load_handwriting)):
        train, test = read(split="train"), read(split="test")
        encoder = CLIPEncoder(backbone="glyph", class_names=train.class_names)
        space, new_space = encoder.fit_transform(train.images), encoder.transform(test.images)
        problems[name] = Problem(space, train.target, new_space, test.target, train.descriptions)
    return problems


def read_real(folder):
    """The sets of real features, by short names."""
    paths = sorted(folder.glob("*.npz")) if folder else []
    short = {path: path.stem.removesuffix("_vitb32").removesuffix("_clip") for path in paths}
    return {name: Problem(*load(path)) for path, name in short.items()}


# -- the methods


def parts_of_cap(problem):
    """CAP in both ways, whole and without one part at a time."""
    paper = {"pseudo_labels": "zero_shot"}
    one_adapter = AdapterTuning(pseudo_adapter=False)
    variants = {
        "CAP (paper)": paper,
        "paper, no detection, no new texts": paper | {"aligner": "passthrough"},
        "paper, no margin": paper | {"m": 0.0},
        "paper, margin without tendency": paper
        | {"calibrator": MarginCalibrator(use_tendency=False)},
        "paper, margin without similarity": paper
        | {"calibrator": MarginCalibrator(use_similarity=False)},
        "paper, no pseudo adapter": paper | {"tuning": one_adapter},
        "paper, no renewal": paper | {"renewal": MainSampleRenewal(every=None)},
        "CAP": {},
        "CAP, no detection": {"t": 0},
        "CAP, no guard": {"pseudo_labels": GaussianTransduction(guard=False)},
        "CAP, classes taken as equal": {"class_prior": "equal"},
        "CAP, no margin": {"m": 0.0},
        "CAP, no pseudo adapter": {"tuning": one_adapter},
        "CAP, no renewal": {"renewal": MainSampleRenewal(every=None)},
    }
    if problem.descriptions:
        describer = TableDescriber(problem.descriptions)
        always = ConceptAligner(describer=describer, accept="always")
        variants["paper, texts from a table"] = paper | {"aligner": always}
        variants["CAP, texts from a table"] = {"describer": describer}
    estimators = {
        name: CAPClassifier(**{"tuning": AdapterTuning()} | parameters)
        for name, parameters in variants.items()
    }
    return estimators | {"CAP, no training": GaussianTransductionClassifier()}


def for_unequal_classes(problem):
    """The methods that need no label, and CAP that is told how frequent the classes are."""
    counts = np.bincount(problem.target, minlength=problem.space.n_classes)
    told = {"tuning": AdapterTuning(), "class_prior": counts / counts.sum()}
    cap = {
        "CAP, classes taken as equal": CAPClassifier(tuning=AdapterTuning(), class_prior="equal"),
        "CAP, told the proportions": CAPClassifier(**told),
        "CAP (paper), told the proportions": CAPClassifier(pseudo_labels="zero_shot", **told),
    }
    methods = all_methods(AdapterTuning()) | cap
    return {name: method for name, method in methods.items() if name != "labels alone"}


# -- the parts: each gives its Comparison


def run(estimators, problem, options, **parameters):
    """Compare on one set."""
    if problem.new_space is not None:
        parameters |= {"X_test": problem.new_space, "y_test": problem.new_target}
    shared = {"memory": options.memory, "n_jobs": options.jobs, "verbose": 1}
    return compare(estimators, problem.space, problem.target, **shared, **parameters)


def run_peers(problems, options):
    parameters = {"paradigms": options.paradigms, "seeds": range(options.seeds)}
    methods = all_methods(AdapterTuning())
    return {
        name: run(methods, problem, options, **parameters) for name, problem in problems.items()
    }


def run_prompt_tuning(problems, options):
    problems = {name: each for name, each in problems.items() if each.space.images is not None}
    parameters = {"paradigms": ["ul"], "seeds": range(options.prompt_seeds)}
    methods = {
        name: method
        for name, method in all_methods(clone(PROMPTS)).items()
        if "tuning" in method.get_params(deep=False) or name in (*OURS, "zero-shot")
    }
    return {name: run(methods, each, options, **parameters) for name, each in problems.items()}


def run_ablation(problems, options):
    seeds = range(options.seeds)
    return {
        name: run(parts_of_cap(each), each, options, seeds=seeds)
        for name, each in problems.items()
    }


def run_longtail(problems, options):
    found = {}
    for name in OF_LONG_TAIL:
        imbalances = QUICK_IMBALANCES if options.quick else IMBALANCES
        for imbalance in imbalances if name in problems else ():
            parts = [subsample(problems[name], imbalance, s) for s in range(options.seeds)]
            runs = [
                run(for_unequal_classes(part), part, options, seeds=[seed])
                for seed, part in enumerate(parts)
            ]
            table = pd.concat([part.table for part in runs], ignore_index=True)
            found[f"{name}, {imbalance}"] = Comparison(table)
    return found


def subsample(problem, imbalance, seed):
    """The same with unequal classes among the images to adapt to."""
    rows, new = np.arange(len(problem.target)), None
    if problem.new_space is None:
        rows, new = train_test_split(
            rows, stratify=problem.target, random_state=seed, test_size=0.5
        )
    rows = np.sort(rows)
    rows = rows[subsample_long_tail(problem.target[rows], imbalance, random_state=seed)]
    chosen = problem._replace(space=problem.space[rows], target=problem.target[rows])
    if new is None:
        return chosen
    return chosen._replace(new_space=problem.space[new], new_target=problem.target[new])


def write_published(options):
    """Accuracy of the methods whose figures on features that are at hand are published."""
    path = options.real / "whurs19_clip_vitb32.npz"
    space, target = load(path)
    rows = []
    for prompt in ("W_single", "W"):
        texts = np.load(path, allow_pickle=False)[prompt]
        texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        of_prompt = ConceptSpace(space.image_features, texts, space.class_names)
        row = {"texts": {"W_single": "single prompt", "W": "mean of 106 prompts"}[prompt]}
        for name in ("zero-shot", "TransCLIP", "ZLaP"):
            probabilities = all_methods()[name].fit(of_prompt).predict_proba(of_prompt)
            row[name] = round(100 * float((probabilities.argmax(axis=1) == target).mean()), 1)
        rows.append(row)
    write(pd.DataFrame(rows), "published", options, index=False)


PARTS = {
    "peers": run_peers,
    "prompt_tuning": run_prompt_tuning,
    "ablation": run_ablation,
    "longtail": run_longtail,
}


# -- tables and plots


def table_of(comparison, measure="score", on="new"):
    """Text of mean and deviation, percent: methods by data sets, and the mean of these."""
    table = comparison.table[comparison.table["on"] == on]
    by_set = table.groupby(["method", "data"], sort=False)[measure]
    means, deviations = (
        (100 * number).unstack("data", sort=False).loc[comparison.methods]
        for number in (by_set.mean(), by_set.std())
    )
    cells = means.map("{:.1f}".format)
    if deviations.notna().any(axis=None):
        cells = cells + " ± " + deviations.map("{:.1f}".format)
    mean = means.mean(axis=1, skipna=False).map("{:.1f}".format)
    return cells.where(means.notna(), "-").assign(mean=mean.replace("nan", "-"))


def costs_of(comparison):
    """Means over all data sets, on new images: recall, pseudolabels, seconds, memory."""
    table = comparison.table[comparison.table["on"] == "new"]
    of_method = table.groupby("method", sort=False)
    shares = ["mean_recall", "worst_recall", "pseudolabel_accuracy", "pseudolabel_evenness"]
    percent = (100 * of_method[shares].mean()).round(1)
    auc = of_method[["auc"]].mean().round(3)
    error = (100 * of_method[["calibration_error"]].mean()).round(1)
    costs = of_method[["seconds", "memory"]].mean().round({"seconds": 1, "memory": 0})
    return percent.join(auc).join(error).join(costs)


def gains_of(comparison):
    """Relative gain of CAP over the best method that is not capkit's, and their means, percent."""
    table = comparison.table[~comparison.table["method"].isin(set(OURS) - {"CAP"})]
    gains = Comparison(table).relative_gain("CAP").xs("new", level="on").reset_index()
    numbers = ["score", "best_peer_score", "gain"]
    gains[numbers] *= 100
    means = gains.groupby("paradigm", sort=False)[numbers].mean().reset_index()
    means = means.assign(data="mean", best_peer="the best of each set")
    return pd.concat([gains, means[gains.columns]]).round(1)


def write_comparison(part, comparison, options):
    """A table for each paradigm, quality and costs, gains, and a picture."""
    for paradigm in dict.fromkeys(comparison.table["paradigm"]):
        rows = comparison.table["paradigm"] == paradigm
        of_paradigm = Comparison(comparison.table[rows])
        for on in ("new", "adapted"):
            write(table_of(of_paradigm, on=on), f"{part}_{paradigm}_{on}", options)
        write(costs_of(of_paradigm), f"{part}_{paradigm}_quality", options)
        draw_gains(of_paradigm, options.plots / f"{part}_{paradigm}.png")
    write(gains_of(comparison), f"{part}_gain", options, index=False)


def write_longtail(part, comparison, options):
    """Accuracy and worst recall by imbalance, mean over the sets."""
    data = comparison.table["data"].str.rsplit(", ", n=1, expand=True)
    table = comparison.table.assign(data=data[0], imbalance=data[1].astype(int))
    table = table[table["on"] == "new"]
    for measure in ("score", "mean_recall", "worst_recall"):
        by_set = table.groupby(["method", "imbalance", "data"], sort=False)[measure].mean()
        means = 100 * by_set.groupby(["method", "imbalance"], sort=False).mean()
        cells = means.unstack("imbalance").loc[comparison.methods].round(1)
        write(cells, f"{part}_{measure}", options)
    draw_longtail(table, options.plots / f"{part}.png")


def write(table, name, options, **parameters):
    print(f"\n{name}\n{table.to_string(**parameters)}", flush=True)
    table.to_csv(options.results / f"{name}.csv", **parameters)


def draw_gains(comparison, path):
    """Points above zero-shot on new images: a dot a set, the bar their mean."""
    import matplotlib.pyplot as plt

    table = comparison.table[comparison.table["on"] == "new"]
    means = table.groupby(["method", "data"], sort=False)["score"].mean().unstack("data")
    gains = (100 * (means - means.loc["zero-shot"]).drop("zero-shot")).clip(LEAST_GAIN)
    gains = gains.loc[gains.mean(axis=1).sort_values(ascending=False).index]
    figure, ax = plt.subplots(figsize=(8, 0.6 + 0.38 * len(gains)), layout="constrained")
    for row, method in enumerate(gains.index):
        colour = "#D55E00" if method.startswith("CAP") else "#0072B2"
        ax.scatter(gains.loc[method], np.full(gains.shape[1], row), color=colour, alpha=0.6, s=24)
        ax.scatter(gains.loc[method].mean(), row, marker="|", s=350, color=colour, linewidths=2.5)
    ax.axvline(0, color="0.6", linewidth=1)
    ax.set_yticks(range(len(gains)), gains.index)
    ax.invert_yaxis()
    ax.set_xlabel("points above zero-shot on new images; a dot a set, the bar their mean")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_longtail(table, path):
    """Accuracy and mean recall of each method as classes get unequal, mean over the sets."""
    import matplotlib.pyplot as plt

    shown = {
        "CAP": "#D55E00",
        "CAP, classes taken as equal": "#E69F00",
        "CAP (paper)": "#CC79A7",
        "CAP (paper), told the proportions": "#56B4E9",
        "CAP, told the proportions": "#0072B2",
        "Gaussian transduction": "#009E73",
        "zero-shot": "#000000",
    }
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, measure in zip(panels, ("score", "worst_recall"), strict=True):
        means = 100 * table.groupby(["method", "imbalance", "data"])[measure].mean()
        means = means.groupby(["method", "imbalance"]).mean().unstack("imbalance")
        for method, values in means.iterrows():
            colour = shown.get(method, "0.75")
            label = method if method in shown else None
            order = 3 if method in shown else 1
            panel.plot(range(len(values)), values, "o-", color=colour, label=label, zorder=order)
        panel.set_xticks(range(means.shape[1]), means.columns)
        panel.set_xlabel("images of the largest class for one of the smallest")
        panel.set_ylabel({"score": "accuracy (%)", "worst_recall": "worst recall (%)"}[measure])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, less of all, no prompts")
    parts = [*PARTS, "published"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--real", type=Path, help="folder of real features")
    parser.add_argument("--data", nargs="+", help="names of sets; all if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompt-seeds", type=int, default=2)
    parser.add_argument("--paradigms", nargs="+", choices=PARADIGMS, default=list(PARADIGMS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("build/benchmark"))
    parser.add_argument("--plots", type=Path, default=Path("build/benchmark"))
    parser.add_argument("--memory", type=Path, default=Path("build/benchmark/memory"))
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.paradigms = 1, ["ul", "ssl"]
        options.parts = [part for part in options.parts if part != "prompt_tuning"]
    for folder in (options.results, options.plots):
        folder.mkdir(parents=True, exist_ok=True)
    # Equal texts, few images: said of these sets elsewhere, and by the other processes too.
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    problems = read_embedded() | read_real(options.real)
    problems = {name: problems[name] for name in options.data or problems}
    if "published" in options.parts and options.real:
        write_published(options)
    for part in [part for part in options.parts if part != "published"]:
        comparison = Comparison.concat(PARTS[part](problems, options))
        comparison.table.round(4).to_csv(options.results / f"{part}.csv", index=False)
        if part == "longtail":
            write_longtail(part, comparison, options)
        elif part == "ablation":
            for on in ("new", "adapted"):
                write(table_of(comparison, on=on), f"{part}_{on}", options)
        else:
            write_comparison(part, comparison, options)


if __name__ == "__main__":
    main()
