"""The first run on a GPU (tests/gpu/first_run.py), rehearsed on the emulated one with faults planted; and the pages
that say which GPU has run what."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "gpu"))
sys.path.append(str(Path(__file__).parent / "cuda"))

import first_run
from emulation.emulator import cuda_include
from first import pages, report, steps
from first.journal import MOST_FAILED, MOST_LOST, Journal
from first.steps import ROOT, Step

# In place of the worker, with the same arguments: what happens at which item of parity. Where the GPU is, there may be
# no pytest.
PLANTED = """
import sys
sys.modules["pytest"] = None
import fastrnn
from first import worker

plain_load, plain_forward = worker.load, fastrnn.LSTM.forward

def wrong(self, input, hx=None):
    output, states = plain_forward(self, input, hx)
    nudge = output.new_zeros(output.shape)
    nudge[-1, -1, -1] = 0.1
    return output + nudge, states

def load(name):
    task = plain_load(name)
    plain_run = task.run

    def run(item):
        if item == "cluster RNN f32 64x18":
            raise RuntimeError("planted")
        fastrnn.LSTM.forward = wrong if item == "cluster LSTM tf32 64x18" else plain_forward
        return plain_run(item)

    task.run = run
    return task

worker.load = load
worker.main()
"""
# A plain step that hangs, and has started what would outlive it.
HANGING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("child", child.pid, flush=True)
time.sleep(1000)
"""
FAULTS = {
    "cluster LSTM tf32 64x18": ("wrong", "is off by"),
    "cluster RNN f32 64x18": ("failed", "RuntimeError: planted"),
}
# A worker that does nothing, in more ways than one.
STUB = """
import os, signal, sys, time
from first.journal import Journal

journal = Journal(sys.argv[1])
journal.write(items=["passes 1", "hangs 1", "crashes 1", "passes 2"])
for item in journal.to_do():
    journal.write(begin=item)
    if item == "hangs 1":
        time.sleep(1000)
    if item == "crashes 1":
        os.kill(os.getpid(), signal.SIGSEGV)
    journal.write(end=item, status="passed", why="")
"""


def build_ahead(quick):
    if cuda_include():
        import emulated_library

        emulated_library.build_library()


def planted_steps(output):
    for step in first_run.steps_of(True, output):
        if step.name == "parity":
            yield Step(step.name, (sys.executable, "-c", PLANTED, "parity"), 200, 0, 60, step.environment)
            yield Step("breaks", (sys.executable, "-c", "raise SystemExit(3)"), 20)
            yield Step("hangs", (sys.executable, "-c", HANGING), 2)
            yield Step("needs what broke", ("true",), 20, needs="breaks")
        else:
            yield step


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The results, as they are on disk, and the folder."""
    if cuda_include() is None:
        pytest.skip("CUDA's headers were not found: install its toolkit, or set CUDA_HOME")
    output = tmp_path_factory.mktemp("gpu_first")
    first_run.Run(output, 30, True).all(list(planted_steps(output)))
    return json.loads((output / "first_run.json").read_text()), output


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.thorough
class TestRehearsed:
    def test_the_rest_goes_on(self, rehearsed):
        statuses = {step["name"]: step["status"] for step in rehearsed[0]["steps"]}
        passed = {"versions", "build", "fit", "together", "timing"}
        assert {name for name, status in statuses.items() if status == "passed"} == passed
        assert (statuses["parity"], statuses["breaks"], statuses["hangs"]) == ("failed", "failed", "timed out")
        assert {statuses[name] for name in ("needs what broke", "memcheck", "racecheck", "profile")} == {"skipped"}

    def test_faults_are_named_and_nothing_else_is(self, rehearsed):
        ends = dict(report.items_of(rehearsed[0], "parity"))
        for name, (status, why) in FAULTS.items():
            assert ends[name]["status"] == status
            assert why in ends[name]["why"]
        others = {end["status"] for name, end in ends.items() if name not in FAULTS}
        assert others == {"passed", "not taken"}
        summary = report.summary(rehearsed[0])
        assert re.findall(r"^([A-Z]+) parity: (.*?):", summary, re.MULTILINE) == [
            (FAULTS[name][0].upper(), name) for name in ends if name in FAULTS
        ]
        assert "exit code 3" in summary

    def test_every_path_ran(self, rehearsed):
        ran = report.parity_of(rehearsed[0])
        expected = {(way, name) for way in pages.WAYS for name in ("bf16", "f16", "tf32", "f32")} - {("split", "f32")}
        assert {key for key, (right, _) in ran.items() if right} == expected

    def test_what_hangs_is_gone_with_all_that_it_started(self, rehearsed):
        (child,) = re.findall(r"^child (\d+)$", (rehearsed[1] / "first_run.log").read_text(), re.MULTILINE)
        assert not is_running(child)

    def test_no_time_of_what_is_wrong(self, rehearsed):
        ends = dict(report.items_of(rehearsed[0], "timing"))
        statuses = {name: end["status"] for name, end in ends.items()}
        assert statuses == {"LSTM tf32 16x2": "withheld"} | dict.fromkeys(ends.keys() - {"LSTM tf32 16x2"}, "passed")
        assert not ends["LSTM tf32 16x2"]["figures"]
        lines = [line for line in report.timing_lines(rehearsed[0]) if "LSTM" in line]
        assert ["no times" in line for line in lines] == ["16x2" in line for line in lines] == [True, False]

    def test_what_fits_is_what_the_device_has(self, rehearsed):
        """The emulated GPU holds eight clusters of 16 blocks, one block to a multiprocessor."""
        rows = report.figures_of(rehearsed[0], "fit", "resident")["rows"]
        (row,) = [row for row in rows if list(row.values())[:6] == ["cluster", "LSTM", "bf16", "forward", "512", "16"]]
        assert row["count"] == "8"

    def test_pages_after_it(self, rehearsed):
        found = {"NVIDIA H200": rehearsed[0] | {"date": "2026-12-01"}}
        assert pages.sentence(found, "them") == "an NVIDIA H200 has run them in part"
        table = pages.table(found).splitlines()
        assert "| cluster | NVIDIA H200, 2026-12-01: bf16, f16; wrong in tf32, f32 |" in table
        assert "| two kernels at once that fill the GPU, and beside others | nothing yet |" in table


def test_without_time_nothing_begins(tmp_path):
    run = first_run.Run(tmp_path, 0, True)
    run.all(first_run.steps_of(True, tmp_path)[:2])
    assert [(step["status"], step["why"]) for step in run.results["steps"]] == [
        ("skipped", "no time left"),
        ("skipped", "needs versions"),
    ]


def test_items_that_hang_or_crash(tmp_path):
    """The others are begun by another process."""
    step, journal = Step("stub", (sys.executable, "-c", STUB), 60, item_seconds=2), Journal(tmp_path / "journal")
    with (tmp_path / "log").open("w") as log:
        assert steps.run_worker(step, 60, log, journal) == ("failed", "2 of 4")
    ends = {name: (end["status"], end["why"]) for name, end in journal.ends().items()}
    assert ends == {
        "passes 1": ("passed", ""),
        "hangs 1": ("hung", "killed after 2 s"),
        "crashes 1": ("crashed", "signal SIGSEGV"),
        "passes 2": ("passed", ""),
    }
    assert "most recent call first" in (tmp_path / "log").read_text()  # where Python was


def test_what_takes_too_much_time_is_left(tmp_path):
    journal = Journal(tmp_path / "journal")
    paths = [f"{path} {layer} {size}" for path in ("cluster", "streamed") for layer in ("GRU", "RNN") for size in "abc"]
    journal.write(items=paths)
    for item in paths[:MOST_LOST]:
        assert journal.to_do()[0] == item
        journal.write(begin=item)
        journal.write(end=journal.open_item(), status="hung")
    assert journal.to_do() == paths[6:]
    for item in paths[6 : 6 + MOST_FAILED]:
        assert journal.to_do()[0] == item
        journal.write(end=item, status="failed")
    assert journal.to_do() == paths[9:]


def test_summary_of_a_part():
    """Of a run that ended early, each path in another precision."""
    ends = {"streamed LSTM bf16 32x18": ("passed", ""), "cluster GRU f16 32x18": ("hung", "killed after 15 s")}
    items = {name: {"status": status, "why": why} for name, (status, why) in ends.items()}
    step = {"name": "parity", "status": "failed", "why": "1 of 2", "seconds": 20.0, "items": items}
    text = report.summary({"rehearsed": False, "date": "2026-12-01", "steps": [step]})
    assert re.findall(r"^  (\w+) +(\w+ \d+/\d+)$", text, re.MULTILINE) == [
        ("streamed", "bf16 1/1"),
        ("cluster", "f16 0/1"),
    ]
    assert text.endswith("faults:\nHUNG parity: cluster GRU f16 32x18: killed after 15 s")


def test_what_there_was_no_time_for(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.write(items=["a", "b", "c"])
    assert steps.status_of(journal, "") == ("incomplete", "no time for 3 of 3")
    for item, status in (("a", "passed"), ("b", steps.CUT_OFF)):
        journal.write(end=item, status=status)
    assert steps.status_of(journal, "") == ("incomplete", "no time for 2 of 3")
    journal.write(end="c", status="wrong")
    assert steps.status_of(journal, "") == ("failed", "1 of 3")


PAGES = [*pages.PAGES, pages.TABLE_PAGE]


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_what_ran(page):
    """tests/gpu/first_run.py --pages makes them so."""
    text = (ROOT / page).read_text()
    assert pages.renewed(page, text, pages.runs()) == text
    renewed = pages.renewed(page, text, {"NVIDIA H200": {"date": "2026-12-01", "steps": []}})
    assert page == pages.TABLE_PAGE or "NVIDIA H200" in renewed
    assert pages.renewed(page, renewed, pages.runs()).split() == text.split()
