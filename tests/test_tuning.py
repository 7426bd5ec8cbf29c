"""Every threshold is a line of a tuning.h and a row of docs/tuning.md, and the plans begin where one looks first."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tuning.md").read_text()
DEVICES = ("cpu", "cuda")
COLUMNS = "| name | value | what it decides | evidence | figures |"
CONSTANT = r"constexpr int64_t (k\w+) = ([^;]+);  +// \S.*"
FIRST_SCREEN = 45  # lines


def header(device):
    return (ROOT / "csrc" / device / "tuning.h").read_text()


def constants(device):
    return re.findall(rf"^{CONSTANT}$", header(device), re.MULTILINE)


def rows(device):
    """The cells of the tables on a device's thresholds."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    mine = [section for section in sections if section.startswith("GPU") == (device == "cuda")]
    lines = [line for section in mine for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("device", DEVICES)
def test_each_constant_has_a_row_and_each_row_a_constant(device):
    in_page = [(name.strip("`"), value.strip("`")) for name, value, *_ in rows(device)]
    assert in_page, "the tables are gone: this test looks in the wrong place"
    assert sorted(in_page) == sorted(constants(device))
    names = [name for name, _ in in_page]
    assert len(set(names)) == len(names)


def test_rows_are_whole():
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert {line for line in lines if not line.startswith("| `")} == {COLUMNS, "|---|---|---|---|---|"}
    assert all(len(cells) == 5 and all(cells) for device in DEVICES for cells in rows(device))
    assert sum(line.startswith("| `") for line in lines) == sum(len(rows(device)) for device in DEVICES)


@pytest.mark.parametrize("device", DEVICES)
def test_the_header_holds_integers_alone(device):
    """Kernel files, which are compiled for one instruction set each, include it."""
    known = [CONSTANT, "//.*", "#pragma once", "#include <cstdint>", rf"namespace fastrnn::{device} {{"]
    known += [rf"}}  // namespace fastrnn::{device}", ""]
    assert [line for line in header(device).splitlines() if not re.fullmatch("|".join(known), line)] == []


@pytest.mark.parametrize("device", DEVICES)
def test_every_constant_decides_something(device):
    folders = {"cpu": ("cpu", "ops"), "cuda": ("cuda", "ops")}[device]
    files = [path for folder in folders for path in (ROOT / "csrc" / folder).rglob("*.*") if path.name != "tuning.h"]
    code = "\n".join(re.sub("//.*", "", path.read_text()) for path in files)
    assert [name for name, _ in constants(device) if not re.search(rf"\b{name}\b", code)] == []
    assert [name for name, _ in constants(device) if re.search(rf"constexpr \w+ {name}\b", code)] == []


@pytest.mark.parametrize("device", DEVICES)
def test_the_plan_begins_on_the_first_screen(device):
    lines = (ROOT / "csrc" / device / "plan.cpp").read_text().splitlines()
    assert any(re.match(r"Choice choose_plan\(.*\{$", line) for line in lines[:FIRST_SCREEN])
