"""The site: `make docs` writes it to docs/_build/html, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "benchmarks")]

import performance  # noqa: E402  (beside this file)

import fastrnn  # noqa: E402

performance.write(FOLDER / "_generated")

project = "fastrnn"
author = "fastrnn authors"
release = version = fastrnn.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"fastrnn {release}"
autodoc_typehints = "none"  # the docstrings say what an argument is, its shape included
autodoc_member_order = "bysource"
# Attributes as well: weights of layer k, weight_ih_l[k], are no names to refer to.
napoleon_custom_sections = [(section, "params_style") for section in ("Inputs", "Outputs", "Attributes")]
