"""The emulated GPU itself: what it computes, and that it finds what is wrong with a kernel.

Every kernel of test_faults.cpp runs in each build under twenty orders of its threads.
"""

import os
import re
import subprocess

import pytest
from emulator import ENVIRONMENT, ROOT, build, cuda_include

pytestmark = pytest.mark.skipif(cuda_include() is None, reason="CUDA's headers were not found")

SOURCES = ROOT / "tests" / "cuda" / "emulation"
BUILD = ROOT / "build" / "emulation"
PROGRAMS = ("plain", "asan", "race")

NOTHING = "^nothing$"
NAN = "^NaN$"
WRONG = f"^wrong values$|{NAN}"
RACE = "data race on "
POISON = "AddressSanitizer: use-after-poison"
UNPREPARED = "mbarrier that was not initialised|^nothing$"
PHASE = "an mbarrier expects a phase while the one before goes on"
MBARRIER = r"deadlock: .* threads, such as thread .*, wait for an mbarrier in gossip\.h:\d+"
UNFINISHED = "ended without waiting for its copies"
# What each build says to every order; where one expression stands for all builds, it says to all of them.
FAULTS = {
    "Nothing": NOTHING,
    "NothingInHalves": NOTHING,
    "NothingInBfloats": NOTHING,
    "NothingInWarp": NOTHING,
    "NothingInCrowd": NOTHING,
    "OneOfCrowd": (NOTHING, NOTHING, "data race on .* read by thread .* of block 4 "),
    "BarrierBeforeReading": (WRONG, WRONG, RACE),
    "BarrierBeforeReuse": (WRONG, WRONG, RACE),
    "BarrierBeforeRelease": (WRONG, WRONG, RACE),
    "BarrierBetweenHalves": (WRONG, WRONG, RACE),
    "BarrierBetweenBfloats": (WRONG, WRONG, RACE),
    "BarrierBetweenWarps": (WRONG, WRONG, RACE),
    "MeetingBetweenLanes": (WRONG, WRONG, RACE),
    "WaitForCopies": (UNFINISHED, UNFINISHED, "an asynchronous access still under way"),
    "WaitForLastCopies": (UNFINISHED, UNFINISHED, "an asynchronous access still under way"),
    "Polling": (WRONG, WRONG, RACE),
    "WarpMeeting": (WRONG, WRONG, RACE),
    "ShuffleForWarpMeeting": (NOTHING, NOTHING, RACE),
    "Release": (NOTHING, NOTHING, "data race .* the flag is read by"),
    "Acquire": (NOTHING, NOTHING, "data race .* the flag is written by"),
    "Flag": r"deadlock: .* threads, such as thread .*, poll a flag in relay\.h:\d+",
    "Initialisation": (NAN, NAN, "nobody wrote byte .* of a block's shared memory"),
    "BarrierByOneWarp": r"divergent: thread .* came to relay\.h:\d+ .* waits for it in relay\.h:\d+",
    "BarrierByTurns": r"divergent: thread .* came to relay\.h:\d+ .* waits for it in relay\.h:\d+",
    "EarlyReturn": "divergent: thread .* (ended while others wait|while a (thread|lane) of its (block|warp) has ended)",
    "ShuffleByHalf": r"divergent: thread .* came to relay\.h:\d+ .* while lanes of its warp do something else together",
    "SharedPastEnd": (NOTHING, POISON, "a kernel touches byte 768 of a block's shared memory"),
    "GlobalPastEnd": (NOTHING, POISON, "a kernel touches byte 4608 of an allocation of 4608"),
    "GlobalBeforeStart": (NOTHING, POISON, "a kernel touches global memory that is not allocated"),
    "Misaligned": (NOTHING, "runtime error: .* misaligned address", NOTHING),
    "HostMemory": (NOTHING, NOTHING, "a kernel touches host memory"),
    "CopyOverUnread": (NAN, NAN, "an asynchronous access still under way"),
    "StoreUnderCopy": (WRONG, WRONG, "an asynchronous access still under way"),
    "StoreAfterCopy": (NOTHING, NOTHING, RACE),
    "CopyMisaligned": "copy_async of misaligned addresses",
    "GossipNothing": NOTHING,
    "GossipClusterMeeting": (UNPREPARED, UNPREPARED, f"{RACE}|{UNPREPARED}"),
    "GossipClusterMeetingByHalf": r"divergent: thread .* came to gossip\.h:\d+",
    "GossipAwait": PHASE,
    "GossipParity": PHASE,
    "GossipExpect": MBARRIER,
    "GossipTooMuchExpected": MBARRIER,
    "GossipOneBuffer": (WRONG, WRONG, RACE),
    "GossipBarrierBeforeSending": (WRONG, WRONG, f"{RACE}|nobody wrote byte"),
    "GossipLastAwait": "ended while stores to it were under way|store_async to a block that has ended",
    "GossipRank": "store_async to a block that is not in the cluster",
    "GossipMisaligned": "store_async to what lies outside a block's shared memory, or misaligned",
    "CopyPastEnd": "copy_async from what lies outside the GPU's allocations",
}


def run(program, *arguments):
    return subprocess.run(
        [program, *arguments],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module", params=PROGRAMS)
def variant(request):
    return request.param


def build_program(name, variant):
    return build(variant, BUILD / f"{name}_{variant}", [SOURCES / f"{name}.cpp"])


def build_ahead(quick):
    if cuda_include():
        for variant in PROGRAMS:
            build_program("test_emulation", variant)
            if not quick:
                build_program("test_faults", variant)


@pytest.fixture(scope="module")
def faults(variant):
    return build_program("test_faults", variant)


def test_results(variant):
    done = run(build_program("test_emulation", variant))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(variant, faults, fault):
    expected = FAULTS[fault]
    if isinstance(expected, tuple):
        expected = expected[PROGRAMS.index(variant)]
    done = run(faults, fault)
    if done.returncode == 0:
        orders = done.stdout.splitlines()
        assert len(orders) == 20
        unexpected = [order for order in orders if not re.search(expected, order)]
        assert not unexpected, unexpected[0]
    else:  # a sanitizer ends the program
        assert variant == "asan"
        assert re.search(expected, done.stderr), done.stderr[:4000]


@pytest.mark.thorough
def test_every_fault_is_listed(faults):
    assert sorted(run(faults).stdout.split()) == sorted(FAULTS)
