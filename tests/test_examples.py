"""The models of examples/ reach what their files say, stop and go on."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = ("sentiment", "numbers_in_words", "digits", "sunspots", "recall")

pytestmark = pytest.mark.examples


def command(name, *options):
    return [sys.executable, f"{name}.py", *map(str, options)]


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", NAMES)
def test_reaches_its_figure(name):
    """Its pictures go where its user finds them, into examples/out."""
    done = subprocess.run(command(name), cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=False)
    print(f"\n{name}\n{done.stdout}")
    assert done.returncode == 0, done.stdout
    assert "reached: " in done.stdout
    assert "steps per second: torch" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_both_packages_learn_the_same(example, name):
    """From one seed, to the rounding of a few steps."""
    running, module = example("running"), example(name)
    (task,) = (kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == name
               and issubclass(kind, running.Task))  # fmt: skip
    losses = {}
    for impl in running.PACKAGES:
        training = running.Training(task(), running.parse(task(), "", ["--impl", impl, "--steps", "5"]))
        for _ in range(5):
            training.step()
        losses[impl] = training.losses
    assert losses["torch"] == pytest.approx(losses["fastrnn"], rel=1e-4)


def torchrun(out, *options):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "char_ddp.py",
        "--out",
        str(out),
        *options,
    ]


def test_processes_agree_with_one(tmp_path):
    done = subprocess.run(torchrun(tmp_path), cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=False)
    print(f"\nchar_ddp\n{done.stdout}")
    assert done.returncode == 0, done.stdout
    assert "reached: at most 0.01 between them" in done.stdout
    assert "steps per second: torch" in done.stdout


def test_processes_go_on(tmp_path):
    subprocess.run(torchrun(tmp_path, "--steps", "4"), cwd=FOLDER, check=True)
    again = subprocess.run(
        torchrun(tmp_path, "--steps", "4", "--resume"), cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True
    )
    assert "reached" in again.stdout


def test_processes_need_torchrun():
    done = subprocess.run([sys.executable, "char_ddp.py"], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torchrun --nproc-per-node 2" in done.stderr


def test_goes_on_from_where_it_was_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--steps", "250", "--compare", "0", "--threads", "1")
    subprocess.run(command("sunspots", "--out", whole, *options), cwd=FOLDER, check=True)
    stopped = subprocess.Popen(command("sunspots", "--out", parts, *options), cwd=FOLDER)
    while not (parts / "sunspots_fastrnn.pt").exists():  # after 200 steps
        time.sleep(0.002)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait() in (0, 130)
    subprocess.run(command("sunspots", "--out", parts, *options, "--resume"), cwd=FOLDER, check=True)
    import torch

    ours, theirs = (torch.load(folder / "sunspots_fastrnn.pt", weights_only=True) for folder in (parts, whole))
    assert ours["losses"] == theirs["losses"]


def test_nothing_to_resume(tmp_path):
    done = subprocess.run(
        command("sunspots", "--out", tmp_path, "--resume"), cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "nothing to resume" in done.stderr
