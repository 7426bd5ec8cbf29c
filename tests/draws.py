"""How often tests fail by chance: ``make test-draws``, a plugin of pytest's.

Each test that draws random inputs runs with so many seeds, in one process. What is told of each is the draws that
failed and how near its comparisons came to what they allow (chance.py); from the tail of that nearness it estimates how
often a run of the whole suite fails though nothing is wrong. A failure names the FASTRNN_TEST_SEED that brings it back.
"""

import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import chance
import pytest
import torch
from _pytest.runner import runtestprotocol
from session_seed import SEEDED, Session

# A tail is made of this share of the draws, the nearest to failing, of so many at most: of more, tests of one kind that
# come less near would be taken for its slope.
TAIL, TAIL_MOST = 0.1, 50


def pytest_addoption(parser):
    group = parser.getgroup("draws")
    group.addoption("--draws", type=int, default=1, help="call each random test with so many seeds")
    group.addoption("--draw-seconds", type=float, default=20.0, help="begin no further draw of a test after so long")
    group.addoption("--draws-json", type=Path, help="write what was found, by test")
    group.addoption("--base-threads", type=int, default=1, help="torch's threads where a test does not ask for some")


@dataclass
class Found:
    """What became of one test's draws."""

    draws: int = 0
    failures: dict[int, str] = field(default_factory=dict)  # by seed
    shares: list[float] = field(default_factory=list)  # the largest of each draw, of what its comparisons allow


def alarm_rate(founds):
    """How often one draw of tests of a kind exceeds what is allowed, by the tail of the nearest.

    The tail is a generalised Pareto distribution's by the moment estimator of A. Dekkers, J. Einmahl and L. de Haan
    (Annals of Statistics 17, 1989); where that finds it lighter than an exponential one, it is taken for that, which is
    on the safe side.
    """
    draws = sum(found.draws for found in founds)
    failures = sum(len(found.failures) for found in founds)
    nearest = sorted((share for found in founds for share in found.shares if share > 0), reverse=True)
    count = min(TAIL_MOST, round(TAIL * len(nearest)))
    if failures or count < 2 or nearest[0] == nearest[count]:
        return failures / draws
    begin = nearest[count]
    logs = [math.log(share / begin) for share in nearest[:count]]
    first, second = (sum(log**power for log in logs) / count for power in (1, 2))
    light = 1 - 0.5 / (1 - first**2 / second) if second > first**2 else 0.0
    shape, scale = first + light, begin * first * (1 - light)
    further = (1 - begin) / scale
    beyond = math.exp(-further) if shape <= 1e-6 else (1 + shape * further) ** (-1 / shape)
    return count / draws * beyond


class Draws:
    """The plugin while it runs."""

    def __init__(self, config):
        self._count = config.option.draws
        self._seconds = config.option.draw_seconds
        self._path = config.option.draws_json
        self._found = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        found = self._found[item.nodeid] = Found()
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports, end = {}, time.perf_counter() + self._seconds
        while found.draws < self._count and (found.draws < 1 or time.perf_counter() < end):
            Session.draw = found.draws
            chance.take()
            # As if another test of the same parent came next, so that the test's own fixtures are made anew.
            reports = {report.when: report for report in runtestprotocol(item, log=False, nextitem=item.parent)}
            found.draws += 1
            found.shares.append(chance.take())
            failed = next((report for report in reports.values() if report.failed), None)
            if failed:
                found.failures[Session.seed()] = failed.longreprtext[-2000:]
            if torch.equal(torch.get_rng_state(), item.stash[SEEDED]) and not hasattr(item.obj, "hypothesis"):
                break  # it draws nothing
        item.session._setupstate.teardown_exact(nextitem)  # fixtures of the module, too
        if found.failures:
            seed, text = next(iter(found.failures.items()))
            reports["call"].outcome = "failed"
            reports[
                "call"
            ].longrepr = f"{len(found.failures)} of {found.draws} draws failed; FASTRNN_TEST_SEED={seed}:\n{text}"
        for report in reports.values():
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter):
        kinds = defaultdict(list)
        for name, found in self._found.items():
            if found.draws > 1:
                kinds[name.partition("[")[0]].append(found)
        table = sorted(((len(founds) * alarm_rate(founds), name) for name, founds in kinds.items()), reverse=True)
        write = terminalreporter.write_line
        write("alarms a run   tests   draws  failed  nearest  (of what is allowed)")
        for rate, name in table:
            founds = kinds[name]
            draws, failed = sum(found.draws for found in founds), sum(len(found.failures) for found in founds)
            nearest = max(max(found.shares) for found in founds)
            write(f"{rate:12.1e} {len(founds):7} {draws:7} {failed:7} {nearest:8.2g}  {name}")
        write(f"{sum(rate for rate, _ in table):12.1e} in all")
        if self._path:
            self._path.write_text(json.dumps({name: asdict(found) for name, found in self._found.items()}))


def noted(close):
    """torch.testing.assert_close, which notes how near it came."""

    def assert_close(actual, expected, **options):
        for ours, theirs in zip(*map(torch.utils._pytree.tree_leaves, (actual, expected)), strict=False):
            note_elements(ours, theirs, options)
        return close(actual, expected, **options)

    return assert_close


def note_elements(ours, theirs, options):
    if not (isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor) and ours.shape == theirs.shape):
        return
    if not (ours.is_floating_point() and ours.numel()) or ours.is_nested or ours.device.type == "meta":
        return
    ours, theirs = ours.detach(), theirs.detach()
    rtol, atol = torch.testing._comparison.default_tolerances(ours, theirs)
    rtol, atol = options.get("rtol", rtol), options.get("atol", atol)
    wide = torch.promote_types(ours.dtype, theirs.dtype)
    difference = (ours.to(wide) - theirs.to(wide)).abs().double()
    allowed = atol + rtol * theirs.abs().double()
    shares = (difference / allowed)[(difference > 0) & difference.isfinite()]
    if shares.numel():
        chance.note(shares.max().item())


def pytest_configure(config):
    if config.option.draws > 1:
        torch.testing.assert_close = noted(torch.testing.assert_close)
        config.pluginmanager.register(Draws(config), "fastrnn-draws")
