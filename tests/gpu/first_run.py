"""The first quarter of an hour of fastrnn on a GPU, in seven minutes: make gpu-first

Builds for the GPU that is there and tries what can hang or be wrong before what takes its time, each step in processes
of its own, under a limit: whatever fails, the rest goes on. The folder of --output gets first_run.json, what came of
everything; first_run.txt, the summary; and first_run.log, what all processes said. Needs Python, a torch with CUDA,
ninja, pybind11 and nvcc.

    make gpu-first
    .venv/bin/python tests/gpu/first_run.py --rehearse    # what can be tried without a GPU, on an emulated one
    .venv/bin/python tests/gpu/first_run.py --pages       # docs/gpu.md and the like, after a new first_run.json
"""

import argparse
import datetime
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from first import pages, report
from first.journal import Journal
from first.steps import ROOT, Step, run_command, run_worker

MINUTES = 7.0
PYTHON = sys.executable
SMALL_SHAPES = (PYTHON, "tests/gpu/small_shapes.py", "--kernels", "lstm", "gru", "--precisions", "bf16")
SANITIZER = ("compute-sanitizer", "--error-exitcode", "1", "--tool")
NCU = "ncu --clock-control none --set full --kernel-name-base mangled --kernel-name regex:fastrnn --force-overwrite"
PROFILED = f"{PYTHON} benchmarks/gpu_profile.py --cells LSTM --precisions bf16 --hidden"
# A preset list would build for every chip.
BUILD = ("env", "-u", "TORCH_CUDA_ARCH_LIST", "FASTRNN_CUDA=1", PYTHON, "setup.py", "build_ext", "--inplace")
EMULATED_BUILD = (PYTHON, "tests/cuda/emulated_library.py")


def worker(task):
    return (PYTHON, "-m", "first.worker", task)


def profile(name, hidden, output):
    """A profile to open, and what it says in words."""
    file = output / f"{name}.ncu-rep"
    return ("sh", "-c", f"{NCU} --export '{file}' {PROFILED} {hidden} && ncu --import '{file}' --page details")


def missing(program, rehearse):
    if rehearse:
        return "the emulated GPU has no such tool"
    return "" if shutil.which(program) else f"{program} was not found"


def steps_of(rehearse, output):
    """In the order of what there is to lose: what comes last may have no time left."""
    rehearsed = {"FASTRNN_REHEARSE": "1"} if rehearse else {}
    sanitizer, ncu = missing("compute-sanitizer", rehearse), missing("ncu", rehearse)
    racecheck = ("racecheck", "--kernel-name", "kernel_substring=fastrnn")
    # A kernel that waits in vain gives up, and is named, before its process is killed. A sanitizer slows all of them.
    as_they_are = {"FASTRNN_CUDA_VERIFY": "0"}  # a path that was found wrong at first use would not be taken again
    briefly = as_they_are | (rehearsed or {"FASTRNN_CUDA_WAIT_SECONDS": "5"})
    patiently = as_they_are | {"FASTRNN_CUDA_WAIT_SECONDS": "60"}
    unsplit = as_they_are | {"FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT": str(1 << 60)}
    wholly = patiently | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # every tensor has bounds of its own
    return [
        Step("versions", worker("versions"), 30, item_seconds=30, environment=rehearsed),
        Step("build", EMULATED_BUILD if rehearse else BUILD, 180, needs="versions"),
        Step("fit", worker("fit"), 40, item_seconds=30, environment=rehearsed, needs="build"),
        Step("parity", worker("parity"), 90, 30, item_seconds=15, environment=briefly, needs="build"),
        Step("together", worker("together"), 60, 20, item_seconds=15, environment=briefly, needs="build"),
        Step("timing", worker("timing"), 130, 40, item_seconds=30, environment=as_they_are | rehearsed, needs="build"),
        Step("memcheck", (*SANITIZER, "memcheck", *SMALL_SHAPES), 60, 20, 0, wholly, "build", sanitizer),
        Step("racecheck", (*SANITIZER, *racecheck, *SMALL_SHAPES), 60, 20, 0, patiently, "build", sanitizer),
        Step("profile", profile("profile", "512 1024", output), 40, 15, 0, as_they_are, "build", ncu),
        Step("profile_unsplit", profile("profile_unsplit", "1024", output), 40, 15, 0, unsplit, "build", ncu),
    ]


class Run:
    """Steps one after another, within a time for all of them; results are on disk after each."""

    def __init__(self, output, minutes, rehearsed):
        self.output, self.end = output, time.monotonic() + 60 * minutes
        self.results = {"date": datetime.date.today().isoformat(), "rehearsed": rehearsed, "steps": []}
        output.mkdir(parents=True, exist_ok=True)

    def all(self, steps):
        with (self.output / "first_run.log").open("w") as log, tempfile.TemporaryDirectory() as journals:
            for index, step in enumerate(steps):
                reserved = sum(later.least for later in steps[index + 1 :] if not later.why_not)
                result = {"name": step.name, "status": "skipped", "why": self._why_not(step), "seconds": 0.0}
                if not result["why"]:
                    log.write(f"\n==== {step.name}\n")
                    log.flush()
                    journal = Journal(Path(journals) / f"{step.name}.jsonl")
                    result |= self._run(step, self._seconds(step, reserved), log, journal)
                self.results["steps"].append(result)
                report.withhold(self.results)
                self._save()
                print(f"{step.name}: {result['status']} {result['why']}", flush=True)

    def _seconds(self, step, reserved):
        """What it may take: no more than leaves the later ones the least that they need."""
        return min(step.seconds, max(step.least, self.end - time.monotonic() - reserved))

    def _why_not(self, step):
        status = {each["name"]: each["status"] for each in self.results["steps"]}
        if step.why_not:
            return step.why_not
        if status.get(step.needs, "passed") != "passed":
            return f"needs {step.needs}"
        return "" if self.end - time.monotonic() >= step.least else "no time left"

    def _run(self, step, seconds, log, journal):
        begin = time.monotonic()
        if step.item_seconds:
            status, why = run_worker(step, seconds, log, journal)
        else:
            status, why = run_command(step, seconds, log)
        found = {"status": status, "why": why, "seconds": round(time.monotonic() - begin, 1)}
        if not step.item_seconds:
            return found
        ends = journal.ends()
        return found | {"items": ends, "left_out": [item for item in journal.items() if item not in ends]}

    def _save(self):
        new = self.output / "first_run.json.new"
        new.write_text(json.dumps(self.results, indent=1) + "\n")
        new.replace(self.output / "first_run.json")


def default_output(rehearse):
    if rehearse:
        return ROOT / "build" / "gpu_first_rehearsed"
    name = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        name = subprocess.run(query, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    slug = re.sub(r"\W+", "_", name.removeprefix("NVIDIA ").lower()).strip("_") or "none"
    return ROOT / "benchmarks" / "results" / f"gpu_first_{slug}_{datetime.date.today().isoformat()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: benchmarks/results/gpu_first_GPU_DATE")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all of it (default: {MINUTES:.0f})")
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="these alone; what they need must be there")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: small shapes on an emulated one")
    parser.add_argument("--pages", action="store_true", help="only write the pages that say what ran on which GPU")
    args = parser.parse_args()
    if args.pages:
        pages.write()
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what is killed leaves no file behind
    output = (args.output or default_output(args.rehearse)).resolve()
    run = Run(output, args.minutes, args.rehearse)
    run.all([step for step in steps_of(args.rehearse, output) if not args.steps or step.name in args.steps])
    summary = report.summary(run.results)
    (output / "first_run.txt").write_text(summary + "\n")
    print(f"\n{summary}\n\nwrote {output}/first_run.json")
    sys.exit(any(step["status"] in ("failed", "timed out") for step in run.results["steps"]))


if __name__ == "__main__":
    main()
