"""What random tests owe to chance.

Every test draws fresh inputs, so each of its comparisons can fail though nothing is wrong. The whole suite may do so
once in 1,000 runs, and knows that it does: a count has an exact tail (`critical_count`), and a comparison within a
tolerance says here how near it came (`note`), which `make test-draws` collects over many draws (`draws.py`).
"""

from math import inf, isnan

FALSE_ALARM = 1e-8  # of one count: the suite makes some thousands of them

_nearest = 0.0


def note(share):
    """A comparison took this share of what is allowed: above 1, or NaN, it fails."""
    global _nearest
    if not share <= _nearest:
        _nearest = inf if isnan(share) else share


def take():
    """The largest share since the last call."""
    global _nearest
    share, _nearest = _nearest, 0.0
    return share


def critical_count(draws, share):
    """How many of `draws` events, each of probability `share` at most, are more than chance can explain."""
    at_least, exactly = 1.0, (1 - share) ** draws  # the probabilities of so many
    for count in range(draws + 1):
        if at_least <= FALSE_ALARM:
            return count
        at_least -= exactly
        exactly *= (draws - count) / (count + 1) * share / (1 - share)
    return draws + 1
