"""Every block of Python in the README and the site runs, page by page, as it is read."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in path.read_text()
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_runs(page):
    names = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, page, "exec"), names)


def test_the_pages_have_blocks():
    assert {"README", "index", "layers", "migration"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("tool", ("ruff", "clang-format"))
def test_pre_commit_has_the_versions_of_make_lint(tool):
    (pinned,) = re.findall(rf"^{tool}==(\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert set(re.findall(rf"{tool}==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text())) == {pinned}
