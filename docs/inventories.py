"""Inventories of other projects' documentation, with the names that these pages link to.

Sphinx would fetch each project's whole inventory when the pages are built. Where there is no
network that fails, and `-W` fails with it. These few names are written down instead, so that the
links are the same everywhere. `check_pages.py` finds a reference that is missing here.
"""

from __future__ import annotations

import zlib
from pathlib import Path

# Project: where its documentation is; then role, page with "$" for the name, and the names.
PROJECTS = {
    "python": (
        "https://docs.python.org/3/",
        [
            ("py:class", "library/stdtypes.html#$", "dict list str tuple"),
            ("py:class", "library/functions.html#$", "bool float int object"),
            ("py:function", "library/functions.html#$", "callable"),
            ("py:data", "library/constants.html#$", "False None True"),
            ("py:class", "library/pathlib.html#$", "pathlib.Path"),
            (
                "py:exception",
                "library/exceptions.html#$",
                "ArithmeticError AttributeError ConnectionError Exception KeyboardInterrupt "
                "LookupError MemoryError OSError RuntimeError TimeoutError TypeError UserWarning "
                "ValueError",
            ),
            ("std:term", "glossary.html#term-$", "iterable mapping sequence"),
            ("std:label", "library/stdtypes.html#$", "bltin-boolean-values"),
        ],
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        [
            ("py:class", "reference/generated/$.html#$", "numpy.ndarray"),
            (
                "py:class",
                "reference/random/legacy.html#$",
                "numpy.random.RandomState",
            ),
            (
                "py:function",
                "reference/generated/$.html#$",
                "numpy.arange numpy.argsort numpy.argwhere numpy.array numpy.bincount "
                "numpy.fill_diagonal numpy.flatnonzero numpy.full numpy.mean numpy.sort numpy.sum",
            ),
            ("py:function", "reference/random/generator.html#$", "numpy.random.default_rng"),
            ("std:term", "glossary.html#term-$", "array_like"),
        ],
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        [("py:function", "reference/generated/$.html#$", "scipy.optimize.linear_sum_assignment")],
    ),
    "sklearn": (
        "https://scikit-learn.org/stable/",
        [
            (
                "py:class",
                "modules/generated/$.html#$",
                "sklearn.base.BaseEstimator sklearn.calibration.CalibrationDisplay "
                "sklearn.cluster.KMeans sklearn.decomposition.PCA "
                "sklearn.linear_model.LogisticRegression sklearn.metrics.ConfusionMatrixDisplay "
                "sklearn.model_selection.GridSearchCV sklearn.model_selection.StratifiedKFold "
                "sklearn.pipeline.Pipeline sklearn.utils.Bunch",
            ),
            (
                "py:function",
                "modules/generated/$.html#$",
                "sklearn.datasets.load_digits sklearn.metrics.accuracy_score "
                "sklearn.metrics.balanced_accuracy_score sklearn.metrics.confusion_matrix "
                "sklearn.metrics.recall_score sklearn.pipeline.make_pipeline",
            ),
            ("py:exception", "modules/generated/$.html#$", "sklearn.exceptions.NotFittedError"),
        ],
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        [
            ("py:class", "tensors.html#$", "torch.Tensor"),
            ("py:class", "tensor_attributes.html#$", "torch.device torch.dtype"),
            ("py:class", "generated/$.html#$", "torch.nn.Module"),
            ("py:class", "data.html#$", "torch.utils.data.Dataset"),
            ("py:class", "amp.html#$", "torch.autocast"),
        ],
    ),
    "joblib": (
        "https://joblib.readthedocs.io/en/stable/",
        [
            ("py:class", "generated/$.html#$", "joblib.Memory joblib.Parallel"),
            ("py:class", "generated/$.html#$", "joblib.parallel_config"),
        ],
    ),
    "matplotlib": (
        "https://matplotlib.org/stable/",
        [
            ("py:class", "api/_as_gen/$.html#$", "matplotlib.axes.Axes"),
            ("py:class", "api/figure_api.html#$", "matplotlib.figure.Figure"),
            (
                "py:function",
                "api/_as_gen/$.html#$",
                "matplotlib.pyplot.figure matplotlib.pyplot.show matplotlib.pyplot.subplots",
            ),
        ],
    ),
    "pandas": (
        "https://pandas.pydata.org/docs/",
        [("py:class", "reference/api/$.html#$", "pandas.DataFrame")],
    ),
    "skorch": (
        "https://skorch.readthedocs.io/en/stable/",
        [
            ("py:class", "callbacks.html#$", "skorch.callbacks.Callback"),
            ("py:class", "classifier.html#$", "skorch.NeuralNet"),
        ],
    ),
}


def write_inventory(project: str, path: Path) -> None:
    """Write the names of a project in Sphinx's format, version 2."""
    _, groups = PROJECTS[project]
    entries = [
        f"{name} {role} 1 {page.replace('$', name)} -\n"
        for role, page, names in groups
        for name in names.split()
    ]
    header = (
        f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    path.write_bytes(header.encode() + zlib.compress("".join(entries).encode()))


def intersphinx_mapping(folder: Path) -> dict[str, tuple[str, str]]:
    """Write all inventories into a folder and return Sphinx's setting that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, (address, _) in PROJECTS.items():
        path = folder / f"{project}.inv"
        write_inventory(project, path)
        mapping[project] = (address, str(path))
    return mapping
