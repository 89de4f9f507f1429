"""Configuration of the documentation; `make docs` builds it with warnings as errors."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # formulas.py and inventories.py

import inventories

import capkit

HERE = Path(__file__).parent

project = "capkit"
author = "capkit developers"
copyright = f"2026, {author}"
release = version = capkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "formulas",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"
exclude_patterns = ["_build", "README.md"]
templates_path = ["_templates"]
default_role = "literal"
nitpicky = False
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold objects

extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}

# A build never asks the network: inventories.py lists the names that are linked to and says why.
intersphinx_mapping = inventories.intersphinx_mapping(HERE / "generated" / "inventories")
intersphinx_disabled_reftypes = ["std:doc"]

# MathML, written by formulas.py. MathJax would come from another site in the reader's browser.
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"capkit {release}"
html_static_path = ["_static"]
html_css_files = ["capkit.css"]
html_copy_source = False
html_permalinks_icon = "#"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# A signature of more characters than this has a line for each parameter.
maximum_signature_line_length = 70
toc_object_entries = True
toc_object_entries_show_parents = "hide"

autosummary_generate = True
autosummary_imported_members = False
autodoc_typehints = "none"  # the types stand in the numpydoc sections
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # words that are no type, such as "shape"
numpydoc_xref_aliases = {
    name.rpartition(".")[2]: name
    for name in (
        "capkit.CAPClassifier",
        "capkit.CLIPEncoder",
        "capkit.Comparison",
        "capkit.ConceptAligner",
        "capkit.ConceptSpace",
        "capkit.GaussianTransduction",
        "capkit.MainSampleRenewal",
        "capkit.MarginCalibrator",
        "capkit.MismatchDetector",
        "capkit.backbones.Backbone",
        "capkit.guard.AdaptationReport",
        "capkit.image_files.ImageFiles",
        "capkit.labels.LabelTable",
        "capkit.report.ReportContent",
        "capkit.space.GaussianClasses",
        "capkit.tuning.Tuning",
        "matplotlib.axes.Axes",
        "matplotlib.figure.Figure",
        "pandas.DataFrame",
        "pathlib.Path",
        "sklearn.utils.Bunch",
        "torch.Tensor",
    )
}
myst_heading_anchors = 2

# In the order in which a reader needs them; an example that is missing here is an error.
EXAMPLES = [
    "quickstart.py",
    "own_images.py",
    "plot_two_problems.py",
    "plot_displays.py",
    "plot_compare.py",
    "plot_grid_search.py",
    "plot_pipeline.py",
    "ollama_descriptions.py",
]


def reading_order(path):
    return EXAMPLES.index(Path(path).name)


sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    # These run while the documentation is built; the others need a download or a server.
    "filename_pattern": r"(plot_\w+|quickstart)\.py$",
    "within_subsection_order": reading_order,
    "abort_on_example_error": True,
    "download_all_examples": True,
    "show_signature": False,
    "remove_config_comments": True,
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("capkit",),
    "matplotlib_animations": False,
    "min_reported_time": 1,
    "write_computation_times": False,  # of the machine that built the pages
}

# Progress bars and warnings meant for a terminal do not belong on a page.
warnings.filterwarnings("ignore", message="IProgress not found")


def skip_sklearn_methods(app, what, name, obj, skip, options):
    """Leave out what scikit-learn gives to every estimator; its documentation describes it."""
    inherited = (getattr(obj, "__module__", None) or "").startswith("sklearn.")
    if inherited or re.fullmatch(r"set_(\w+_request|output)", name):
        return True
    return None


def correct_links_of_sources(app, pagename, templatename, context, doctree):
    """Let links of viewcode lead to where they should.

    It takes all objects of a module to be documented under the name of the first, so that
    `capkit.margins.tendency` becomes `capkit.tendency`, because `capkit.MarginCalibrator` is so.
    """
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(
            r"generated/([\w.]+)\.html#([\w.]+)", correct_link_of_source, context["body"]
        )


def correct_link_of_source(found):
    page, place = found.groups()
    if place != page and not place.startswith(f"{page}."):
        place = page
    return f"generated/{page}.html#{place}"


def setup(app):
    app.connect("autodoc-skip-member", skip_sklearn_methods)
    app.connect("html-page-context", correct_links_of_sources)
