"""What there is, before anything of fastrnn's is built."""

import os
import shutil
import subprocess
import sys

import torch

from first.journal import Outcome

TOOLS = ("nvcc", "ninja", "g++", "compute-sanitizer", "ncu", "make", "git")
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,mig.mode.current", "--format=csv")


def items(rehearse):
    return ["versions"]


def run(item):
    found = {tool: shutil.which(tool) or "" for tool in TOOLS}
    known = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda or "", **found}
    known |= {"cores": len(os.sched_getaffinity(0)), "nvcc_version": said(found["nvcc"], "--version")}
    if os.environ.get("FASTRNN_REHEARSE") == "1":
        return Outcome(figures=known)
    known |= {"nvidia_smi": said(*QUERY)}
    if not torch.cuda.is_available():
        return Outcome("failed", "torch finds no GPU; nvidia-smi says whether the driver does", known)
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Outcome(figures=known | {"gpu": facts.name, "cudnn": torch.backends.cudnn.version()})


def said(program, *arguments):
    """The last line of what a program says; "" where it is not there."""
    if not shutil.which(program):
        return ""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[-1] if done.stdout or done.stderr else ""
