"""Steps that are processes of their own: each under a limit, killed with all that it started, recorded as it ended."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from first.journal import WRONG

ROOT = Path(__file__).resolve().parents[3]
POLL_SECONDS = 0.1
# Of one look at a process to the next: where this process was stopped, so were the others.
MOST_BETWEEN_LOOKS = 1.0
START_SECONDS = 60.0  # until a worker has begun its first item
# What a worker may take beyond its time for the item that it is at; and a killed process, to be gone.
GRACE_SECONDS, KILL_SECONDS = 5.0, 10.0
TRACE_SECONDS = 1.0  # to write where Python is
CUT_OFF = "cut off"  # what an item is that was under way as its step's time ended


@dataclass(frozen=True)
class Step:
    name: str
    command: tuple[str, ...]  # of a worker, without its journal and its time
    seconds: float  # at most
    least: float = 10.0  # with fewer left, it is not begun
    item_seconds: float = 0.0  # a worker's: at most for each item. 0: the step is a plain command
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""  # the step without which this one makes no sense
    why_not: str = ""  # what is missing here, if something is


class Process:
    """In a session of its own, so that a kill reaches whatever it starts."""

    def __init__(self, command, environment, log):
        paths = [str(ROOT), str(ROOT / "tests" / "gpu"), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1", **environment}
        self._popen = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def poll(self):
        return self._popen.poll()

    def kill(self):
        """Its whole group; Python says first where it was. Returns whether it is gone."""
        self._send(signal.SIGABRT)
        self._wait(TRACE_SECONDS)
        self._send(signal.SIGKILL)
        return self._wait(KILL_SECONDS)

    def end(self):
        """What it left running."""
        self._send(signal.SIGKILL)

    def _send(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def _wait(self, seconds):
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class Watch:
    """Seconds since the last sign of life, as far as this process could have seen one."""

    def __init__(self):
        self._look, self.quiet = time.monotonic(), 0.0

    def look(self, alive):
        now = time.monotonic()
        self.quiet = 0.0 if alive else self.quiet + min(now - self._look, MOST_BETWEEN_LOOKS)
        self._look = now


def said(code):
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def run_command(step, seconds, log):
    """The status of a plain command, and why."""
    process = Process(step.command, step.environment, log)
    watch = Watch()
    while process.poll() is None and watch.quiet < seconds:
        time.sleep(POLL_SECONDS)
        watch.look(alive=False)
    code = process.poll()
    if code is None:
        gone = process.kill()
        return "timed out", f"killed after {seconds:.0f} s" + ("" if gone else ", and still there")
    process.end()
    return ("passed", "") if code == 0 else ("failed", said(code))


def run_worker(step, seconds, log, journal):
    """Processes one after another, as long as each gets an item further."""
    end, why = time.monotonic() + seconds, ""
    while not why:
        before = len(journal.ends())
        ended = _run_one(step, end, log, journal)
        if ended == "exit code 0" or not journal.to_do():
            break
        if len(journal.ends()) == before:
            why = f"{ended} outside of any item"
        elif time.monotonic() > end:
            break
    return status_of(journal, why)


def status_of(journal, why):
    items, ends = journal.items(), journal.ends()
    bad = [name for name, record in ends.items() if record["status"] in WRONG]
    left = len(items) - len([name for name, record in ends.items() if record["status"] != CUT_OFF])
    if why or bad or not items:
        return "failed", why or f"{len(bad)} of {len(items)}"
    return ("incomplete", f"no time for {left} of {len(items)}") if left else ("passed", "")


def _run_one(step, end, log, journal):
    """One process of a worker; what it was doing when it ended before its time is recorded. Returns how it ended."""
    left = max(0.0, end - time.monotonic())
    process = Process((*step.command, str(journal.path), f"{left:.0f}"), step.environment, log)
    watch, before, fate = Watch(), journal.size(), ""
    size = before
    while process.poll() is None and not fate:
        time.sleep(POLL_SECONDS)
        last, size = size, journal.size()
        watch.look(alive=size != last)
        if watch.quiet > (step.item_seconds if size > before else START_SECONDS):
            fate = "hung"
        elif time.monotonic() > end + GRACE_SECONDS + step.item_seconds:
            fate = CUT_OFF
    if fate:
        gone = process.kill()
        how = f"killed after {watch.quiet:.0f} s" + ("" if gone else ", and still there")
    else:
        fate, how = "crashed", said(process.poll())
        process.end()
    if journal.open_item():
        journal.write(end=journal.open_item(), status=fate, why=how)
    return how
