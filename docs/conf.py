"""The site: `make docs` writes it to docs/_build/html, with warnings as errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "benchmarks")]

import performance  # noqa: E402  (beside this file)

import fastrnn  # noqa: E402

performance.write(FOLDER / "_generated")


def repository() -> str:
    """Where on the web the clone that this is built from came from, or ""."""
    if not shutil.which("git"):
        return ""
    command = ["git", "-C", str(FOLDER), "config", "--get", "remote.origin.url"]
    url = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", url).removesuffix(".git")
    found = re.fullmatch(r"https://(?:[^/@]+@)?(.+)", url)  # who may log in there is nobody else's business
    return f"https://{found[1]}" if found else ""


REPOSITORY = repository()

project = "fastrnn"
author = "fastrnn authors"
copyright = "fastrnn authors; MIT license"
release = version = fastrnn.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_substitutions = {"repository": f"[the repository]({REPOSITORY})" if REPOSITORY else "the repository"}
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"fastrnn {release}"
html_last_updated_fmt = "%Y-%m-%d"
html_show_sphinx = False
if REPOSITORY:
    html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
autodoc_typehints = "none"  # the docstrings say what an argument is, its shape included
autodoc_member_order = "bysource"
# Attributes as well: weights of layer k, weight_ih_l[k], are no names to refer to.
napoleon_custom_sections = [(section, "params_style") for section in ("Inputs", "Outputs", "Attributes")]
