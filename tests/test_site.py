"""The site as `make docs` builds it: what of its pages text can show. Skipped where its packages are missing."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import fastrnn

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent
VERBATIM = {"code", "pre", "script", "style", "math"}


class Page(HTMLParser):
    """A page's text but for code and formulas, its signatures, what it links to, and tables that cannot scroll."""

    def __init__(self, path):
        super().__init__()
        self.path, self.text, self.signatures, self.links, self.ids, self.wide_tables = path, "", [], [], set(), 0
        self.verbatim = self.formulas = 0
        self.signature = self.wrapped = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        classes = (given.get("class") or "").split()
        self.verbatim += tag in VERBATIM
        self.formulas += tag == "math"
        self.ids.add(given.get("id"))
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        if tag == "div" and "math" not in classes:
            self.wrapped = "table-wrapper" in classes
        if tag == "table" and "docutils" in classes:
            self.wide_tables += not self.wrapped
        if tag == "dt" and "sig" in classes:
            self.signature = True
            self.signatures.append("")

    def handle_endtag(self, tag):
        self.verbatim -= tag in VERBATIM
        if tag == "dt":
            self.signature = False

    def handle_data(self, data):
        if self.signature:
            self.signatures[-1] += data
        if not self.verbatim:
            self.text += data

    def missing(self):
        """Links to files that are not there."""
        for link in self.links:
            file = unquote(urldefrag(link)[0].partition("?")[0])
            if file and not re.match(r"\w+:|//", file) and not (self.path.parent / file).exists():
                yield link


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    for package in ("sphinx", "myst_parser", "furo", "latex2mathml"):
        pytest.importorskip(package, reason="requirements-docs.txt has it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html", ROOT / "docs", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(folder)): Page(path) for path in folder.rglob("*.html")}


def test_formulas_are_formulas(pages):
    assert pages["equations.html"].formulas > 20
    raw = {name: re.findall(r"\\[a-zA-Z(\[]+.{20}|\$\$", page.text) for name, page in pages.items()}
    assert not any(raw.values()), raw


def test_every_public_name_is_in_the_reference(pages):
    ids = {name.removeprefix("module-") for name in pages["api.html"].ids if name}
    assert {f"fastrnn.{name}" for name in fastrnn.__all__} <= ids


def test_classes_show_what_they_take(pages):
    signatures = [text for text in pages["api.html"].signatures if text.split()[0] == "class"]
    assert len(signatures) > 10
    assert not [text for text in signatures if "*args" in text or "**" in text]


def test_links_and_pictures_are_there(pages):
    missing = {name: list(page.missing()) for name, page in pages.items()}
    assert not any(missing.values()), missing
    assert any("training_epyc_avx512" in link for link in pages["index.html"].links)


def test_tables_scroll(pages):
    assert {name: page.wide_tables for name, page in pages.items() if page.wide_tables} == {}
