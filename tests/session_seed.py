"""The seeds of a run. Inputs are fresh on every run, so that the suite explores; a failure names the seed that brings
it back."""

import os
import random
import zlib

import pytest

SESSION_SEED = int(os.environ.get("FASTRNN_TEST_SEED") or random.SystemRandom().randrange(2**31))

SEEDED = pytest.StashKey()
"""Of a test: the state of torch's random numbers before it drew any."""


class Session:
    """Which of a test's draws is under way: one by one where draws.py has it run many times."""

    draw = 0

    @classmethod
    def seed(cls):
        """Of a session that would draw the same."""
        return SESSION_SEED + cls.draw

    @classmethod
    def seed_of(cls, nodeid):
        """Torch's in a test: of the session's and of the test's own name, so that it reproduces when run alone."""
        return zlib.crc32(f"{cls.seed()} {nodeid}".encode())
