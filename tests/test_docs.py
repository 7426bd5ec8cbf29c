"""Every block of Python in the README runs by itself, and those of the site page by page, as they are read."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


README = blocks(ROOT / "README.md")
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if blocks(page)]


@pytest.mark.filterwarnings("error::UserWarning")  # an example does nothing that fastrnn warns of
@pytest.mark.parametrize("block", README, ids=range(len(README)))
def test_block_of_the_readme_runs_alone(block):
    exec(compile(block, "README.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page):
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


def test_there_are_blocks():
    assert README
    assert {"index", "layers", "migration"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("tool", ("ruff", "clang-format"))
def test_pre_commit_has_the_versions_of_make_lint(tool):
    (pinned,) = re.findall(rf"^{tool}==(\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert set(re.findall(rf"{tool}==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text())) == {pinned}


def test_wheels_are_built_with_the_torch_of_make_venv():
    (torch,) = re.findall(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f'environment = {{ TORCH = "{torch}",' in (ROOT / "pyproject.toml").read_text()
