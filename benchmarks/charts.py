"""The charts of the page "Results", drawn from the tables in docs/results.

    python benchmarks/charts.py
    python benchmarks/charts.py --real FOLDER

Every chart is of the table that it stands above on its page; the scripts that print the tables are
named there. With the folder of real features (see benchmarks/real_features.py) the picture on the
first page is drawn too: recall of each class of WHU-RS19 on images that were not adapted to.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# Okabe and Ito's colours, which the colour-blind tell apart.
BEFORE, AFTER, THIRD, GREY = "#D55E00", "#0072B2", "#009E73", "0.6"

PARADIGMS = {
    "ul": "no labels",
    "ssl": "two labels a class",
    "trzsl": "62% of the classes labeled",
}
SETS = {
    "digits": "digits",
    "handwriting": "handwriting",
    "cifar10_500": "CIFAR-10",
    "imagenet7_herps": "reptiles",
    "imagenet7_things": "600 things",
    "oxford_pets25": "pets",
    "whurs19": "satellite pictures",
}


def name_of_set(name):
    """Readable name of a set, whose files may say the model as well."""
    stem = name.removesuffix("_vitb32").removesuffix("_clip")
    return SETS.get(stem, stem)


def mean_of(text):
    """Mean of a cell such as "95.0 ± 0.1"."""
    return float(str(text).partition("±")[0])


# -- the drawing


def bars(ax, groups, series, unit):
    """Horizontal bars, a group a row; `series` maps a label to a colour and the values."""
    height = 0.8 / len(series)
    for number, (label, (colour, values)) in enumerate(series.items()):
        places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * height
        drawn = ax.barh(places, values, height * 0.9, color=colour, label=label)
        ax.bar_label(drawn, fmt="%g", padding=2, fontsize=8)
    ax.set_yticks(range(len(groups)), groups)
    ax.invert_yaxis()
    ax.set_xlabel(unit)
    ax.margins(x=0.12)
    ax.spines[["top", "right"]].set_visible(False)


def dots(ax, groups, series, unit):
    """A line a row through the dots of its values; `series` as for bars."""
    values = np.array([value for _, value in series.values()], dtype=float)
    ax.hlines(range(len(groups)), values.min(axis=0), values.max(axis=0), color="0.85", lw=3)
    for (label, (colour, row)), marker in zip(series.items(), "osD^", strict=False):
        ax.scatter(row, range(len(groups)), color=colour, marker=marker, label=label, zorder=3)
    ax.set_yticks(range(len(groups)), groups)
    ax.invert_yaxis()
    ax.set_xlabel(unit)
    ax.grid(axis="x", color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def figure_of(n_rows, n_columns=1, width=8.0):
    """Axes high enough for so many rows."""
    size = (width, 1.1 + 0.32 * n_rows)
    return plt.subplots(1, n_columns, figsize=size, layout="constrained", squeeze=False)


def legend_above(figure, ax, n_columns=4):
    """One legend for the whole figure."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=n_columns)


# -- what it is worth


def before_and_after(results):
    """Zero-shot and CAP on new images of each set, for each kind of labels."""
    figure, axes = figure_of(len(SETS), 3, width=11)
    for ax, (paradigm, title) in zip(axes.flat, PARADIGMS.items(), strict=True):
        table = pd.read_csv(results / f"peers_{paradigm}_new.csv").set_index("method")[[*SETS]]
        series = {
            "zero-shot": (BEFORE, table.loc["zero-shot"].map(mean_of)),
            "CAP": (AFTER, table.loc["CAP"].map(mean_of)),
        }
        measure = "harmonic mean (%)" if paradigm == "trzsl" else "accuracy (%)"
        dots(ax, list(SETS.values()), series, measure)
        ax.set_title(title, fontsize=10)
        if paradigm != "ul":
            ax.set_yticklabels([])
    legend_above(figure, axes.flat[0])
    return figure


def few_labels(results):
    """What two labels a class are worth to a classifier of their own, and to CAP."""
    table = pd.read_csv(results / "real_features_labels.csv")
    series = {
        "LogisticRegression on the labels": (GREY, table["LogisticRegression, 2 labels"]),
        "zero-shot": (BEFORE, table["zero-shot"]),
        "CAP, no labels": (THIRD, table["CAP ul"]),
        "CAP, two labels a class": (AFTER, table["CAP ssl, 2 labels"]),
    }
    figure, axes = figure_of(1.6 * len(table))
    dots(axes[0, 0], table["set"].map(name_of_set).tolist(), series, "accuracy on new images (%)")
    legend_above(figure, axes[0, 0], 2)
    return figure


def ablation(results):
    """What leaving one part out costs, mean over the sets."""
    table = pd.read_csv(results / "ablation_new.csv").set_index("method")
    table = table[table["mean"] != "-"]["mean"].astype(float)
    figure, axes = figure_of(10, 2, width=11)
    titles = {"CAP": "default", "CAP (paper)": "as in the paper"}
    for ax, (whole, title) in zip(axes.flat, titles.items(), strict=True):
        start = "paper, " if whole == "CAP (paper)" else "CAP, "
        parts = table[table.index.str.startswith(start)]
        groups = [name.removeprefix(start) for name in parts.index]
        bars(ax, groups, {"": (AFTER, (parts - table[whole]).round(1))}, "change (points)")
        ax.axvline(0, color="0.3", lw=1)
        ax.set_title(f"{title}: {table[whole]:g}%", fontsize=10)
    return figure


def guard(results):
    """Gain of each planted problem without and with the guard."""
    table = pd.read_csv(results / "guard.csv")
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
    for ax, images in zip(axes, ("adapted", "new"), strict=True):
        off, on = table[f"off, {images}"], table[f"on, {images}"]
        ax.scatter(off, on, s=14, color=AFTER, alpha=0.6, linewidths=0)
        ends = [min(off.min(), on.min()), max(off.max(), on.max())]
        ax.plot(ends, ends, color="0.7", lw=1, zorder=0)
        ax.axhline(0, color="0.3", lw=1, zorder=0)
        ax.axvline(0, color="0.3", lw=1, zorder=0)
        ax.set_xlabel("gain without the guard (points)")
        ax.set_title("images adapted to" if images == "adapted" else "new images", fontsize=10)
    axes[0].set_ylabel("gain with the guard (points)")
    return figure


def texts(results):
    """What descriptions of each kind do, always taken or chosen by the images."""
    table = pd.read_csv(results / "texts.csv")
    table[["always", "images"]] = table[["always", "images"]].sub(table["as they are"], axis=0)
    kinds = ["good", "half exchanged", "nonsense", "exchanged", "another class's"]
    figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    series = {"always": (BEFORE, -0.15), "images": (AFTER, 0.15)}
    labels = {"always": "always taken", "images": "only where the images bear them out (default)"}
    for way, (colour, shift) in series.items():
        places = table["descriptions"].map(kinds.index) + shift
        ax.scatter(table[way], places, s=22, color=colour, alpha=0.7, label=labels[way])
    ax.set_yticks(range(len(kinds)), [f"descriptions: {kind}" for kind in kinds])
    ax.invert_yaxis()
    ax.axvline(0, color="0.3", lw=1, zorder=0)
    ax.set_xlabel("change of accuracy (points), a dot a set")
    ax.spines[["top", "right"]].set_visible(False)
    legend_above(figure, ax)
    return figure


def paradigms(results):
    """Zero-shot, the paper's way and the default of each paradigm, adapters and prompts."""
    figure, axes = figure_of(8, 2, width=11)
    for ax, tuning in zip(axes.flat, ("adapter", "prompt"), strict=True):
        table = pd.read_csv(results / f"paradigms_{tuning}.csv")
        scores = table.assign(score=table["main"].map(mean_of)).pivot(
            index=["data", "paradigm"], columns="pseudo_labels", values="score"
        )
        plain = table.groupby(["data", "paradigm"])["zero-shot"].first().map(mean_of)
        order = [(data, kind) for data in ("digits", "handwriting") for kind in PARADIGMS]
        series = {
            "zero-shot": (BEFORE, plain.loc[order]),
            "CAP as in the paper": (THIRD, scores["zero_shot"].loc[order]),
            "CAP": (AFTER, scores["gaussian"].loc[order]),
        }
        dots(ax, [", ".join(key) for key in order], series, "accuracy on new images (%)")
        ax.set_title(f"{tuning}s", fontsize=10)
        if tuning == "prompt":
            ax.set_yticklabels([])
    legend_above(figure, axes.flat[0])
    return figure


# -- what it costs


def training_step(results):
    """Time of a step beside the plain way."""
    table = pd.read_csv(results / "training_step.csv")
    figure, axes = figure_of(len(table))
    colours = [BEFORE, *[AFTER] * (len(table) - 1)]
    bars(axes[0, 0], table["step"].tolist(), {"": (colours, table["wall s"])}, "seconds a step")
    return figure


def encoding(results):
    """Images a second beside a bare loop over open_clip."""
    table = pd.read_csv(results / "encoding.csv")
    groups = [f"{row.backbone}, {row.images}" for row in table.itertuples()]
    series = {
        "open_clip": (BEFORE, table["open_clip [img/s]"]),
        "CLIPEncoder": (AFTER, table["CLIPEncoder [img/s]"]),
        "CLIPEncoder, warm cache": (THIRD, table["warm cache [img/s]"]),
    }
    figure, axes = figure_of(2.4 * len(table))
    bars(axes[0, 0], groups, series, "images a second")
    axes[0, 0].set_xscale("log")
    legend_above(figure, axes[0, 0])
    return figure


def threads(results):
    """One thread beside the libraries' own choice."""
    table = pd.read_csv(results / "threads.csv")
    groups = [f"{row.fit}, {row.machine} machine" for row in table.itertuples()]
    series = {
        "one thread": (AFTER, table["one thread [s]"]),
        "libraries' own": (BEFORE, table["libraries' own [s]"]),
    }
    figure, axes = figure_of(1.6 * len(table))
    bars(axes[0, 0], groups, series, "seconds")
    legend_above(figure, axes[0, 0])
    return figure


def detection(results):
    """Time of detection by the number of images, for each number of classes."""
    table = pd.read_csv(results / "detection_scaling.csv")
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for (classes, part), colour in zip(
        table.groupby("classes"), (THIRD, AFTER, BEFORE), strict=True
    ):
        ax.plot(part["images"], part["warm [s]"], "o-", color=colour, label=f"{classes} classes")
    ax.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds")
    ax.grid(color="0.92")
    ax.legend(frameon=False)
    return figure


def faults(results):
    """What became of every fault that was thrown."""
    table = pd.read_csv(results / "faults.csv")
    table = table[table["kind of fault"] != "all"]
    outcomes = {
        "refused": AFTER,
        "recovered": THIRD,
        "harmless": "0.75",
        "silent": BEFORE,
    }
    figure, axes = figure_of(0.7 * len(table))
    ax, left = axes[0, 0], np.zeros(len(table))
    for outcome, colour in outcomes.items():
        share = 100 * table[outcome].to_numpy() / table["tried"].to_numpy()
        ax.barh(range(len(table)), share, left=left, color=colour, label=outcome)
        left += share
    ax.set_yticks(range(len(table)), table["kind of fault"], fontsize=7)
    ax.set(xlabel="share of the faults (%)", xlim=(0, 100), ylim=(len(table) - 0.4, -0.6))
    legend_above(figure, ax)
    return figure


CHARTS = (
    before_and_after,
    few_labels,
    ablation,
    guard,
    texts,
    paradigms,
    training_step,
    encoding,
    threads,
    detection,
    faults,
)


def satellite(folder):
    """Recall of each class of WHU-RS19 before and after, on the half that was not adapted to."""
    from capkit import CAPClassifier, ConceptSpace
    from capkit.inspection import RecallDisplay

    with np.load(folder / "whurs19_clip_vitb32.npz") as file:
        target, names = file["y"], file["class_names"]
        space = ConceptSpace(
            image_features=file["Z"].astype(np.float32),
            text_features=file["W_single"],
            class_names=tuple(names.tolist()),
            logit_scale=100.0,
        )
    new = np.random.default_rng(0).permutation(len(target)) < len(target) // 2
    cap = CAPClassifier(tuning="adapter", random_state=0).fit(space[~new])
    before, after = names[space[new].predict()], cap.predict(space[new])
    figure, ax = plt.subplots(figsize=(8, 5.6), layout="constrained")
    RecallDisplay.from_predictions(
        names[target[new]], before=before, after=after, class_names=space.class_names, ax=ax
    )
    right = [100 * (labels == names[target[new]]).mean() for labels in (before, after)]
    ax.set_title("Satellite pictures, CLIP ViT-B/32, no labels: {:.1f}% → {:.1f}%".format(*right))
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--plots", type=Path, default=Path("docs/images"))
    parser.add_argument("--real", type=Path, help="folder of real features")
    arguments = parser.parse_args()
    for chart in CHARTS:
        figure = chart(arguments.results)
        figure.savefig(arguments.plots / f"results_{chart.__name__}.png", dpi=130)
        plt.close(figure)
    if arguments.real is not None:
        satellite(arguments.real).savefig(arguments.plots / "satellite.png", dpi=130)


if __name__ == "__main__":
    main()
