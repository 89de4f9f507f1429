"""Configuration of the documentation; `make docs` builds it with warnings as errors."""

from __future__ import annotations

import warnings

import capkit

project = "capkit"
author = "capkit developers"
copyright = f"2026, {author}"
release = version = capkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"
exclude_patterns = ["_build", "README.md"]
templates_path = ["_templates"]
default_role = "literal"
nitpicky = False
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold objects

extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}

html_theme = "furo"
html_title = f"capkit {release}"
html_static_path = ["_static"]
html_css_files = ["capkit.css"]
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_generate = True
autosummary_imported_members = False
autodoc_typehints = "none"  # the types stand in the numpydoc sections
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
myst_heading_anchors = 2

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    # These run while the documentation is built; the others need a download or a server.
    "filename_pattern": r"(plot_\w+|quickstart)\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("capkit",),
    "matplotlib_animations": False,
    "min_reported_time": 1,
}

# Progress bars and warnings meant for a terminal do not belong on a page.
warnings.filterwarnings("ignore", message="IProgress not found")

# Methods that scikit-learn writes into every estimator; its documentation describes them.
SKLEARN_METHODS = {
    "get_metadata_routing",
    "get_params",
    "set_params",
    "set_output",
    "set_decision_function_request",
    "set_fit_request",
    "set_partial_fit_request",
    "set_predict_proba_request",
    "set_predict_request",
    "set_score_request",
    "set_transform_request",
}


def skip_sklearn_methods(app, what, name, obj, skip, options):
    return True if name in SKLEARN_METHODS else None


def setup(app):
    app.connect("autodoc-skip-member", skip_sklearn_methods)
