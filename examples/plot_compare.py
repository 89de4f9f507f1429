"""
Is it worth it on your images?
==============================

:func:`capkit.compare` runs several methods on the same images, with the same model, and judges
them on images that none of them has seen. It needs the true class of every image; the methods see
only the labels that a paradigm shows.
"""

from capkit import CAPClassifier, CLIPEncoder, compare
from capkit.baselines import (
    FPLClassifier,
    GaussianTransductionClassifier,
    TransCLIPClassifier,
    ZeroShotClassifier,
)
from capkit.datasets import load_digits

digits = load_digits(split="train")

comparison = compare(
    {
        "zero-shot": ZeroShotClassifier(),
        "TransCLIP": TransCLIPClassifier(),
        "Gaussian transduction": GaussianTransductionClassifier(),
        "FPL": FPLClassifier(tuning="adapter"),
        "CAP": CAPClassifier(tuning="adapter"),
    },
    digits.images,
    digits.target,
    class_names=digits.class_names,
    encoder=CLIPEncoder(backbone="glyph"),
    paradigms=["ul", "ssl"],
    seeds=[0, 1],
)
print(comparison.to_markdown())

# %%
# A dot is a seed, which draws the images that are left out, the labels that are shown, and what
# a method draws itself. The dashed lines are zero-shot's means.

figure = comparison.plot()

# %%
# How much better CAP is than the best of the others, relative to it:

comparison.relative_gain("CAP").round(3)

# %%
# With ``None`` in place of the methods all of :func:`capkit.comparison.all_methods` take part, and
# names that are not given are those in the labels. A folder of images with a subfolder a class is
# compared in five lines::
#
#     from pathlib import Path
#     import capkit
#
#     paths = sorted(Path("my_images").glob("*/*.jpg"))
#     comparison = capkit.compare(None, paths, [path.parent.name for path in paths], verbose=1)
#     print(comparison.to_markdown())
