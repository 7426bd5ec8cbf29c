"""What a step's processes have done, a line of JSON each: written by the process itself, so that it outlives it."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# An item that ends so took its process along, and much time. After some with the same first word (a path), no others
# are begun that have it; nor are, after some that failed, those with the same words but the last (the size).
LOST = ("hung", "crashed")
MOST_LOST, MOST_FAILED = 2, 2
WRONG = ("wrong", "failed", *LOST)


@dataclass(frozen=True)
class Outcome:
    """Of an item: what its task's run() returns."""

    status: str = "passed"  # or one of WRONG; "not taken" and "not here" of what did not run
    why: str = ""
    figures: dict = field(default_factory=dict)


class Journal:
    def __init__(self, path):
        self.path = Path(path)

    def write(self, **record):
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def size(self):
        return self.path.stat().st_size if self.path.exists() else 0

    def records(self):
        """But for a last line that was cut off."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def items(self):
        """All that the step has, in their order."""
        return next((record["items"] for record in self.records() if "items" in record), [])

    def ends(self):
        """The records of the items that are done, by name."""
        return {record["end"]: record for record in self.records() if "end" in record}

    def open_item(self):
        """The one that was begun and has not ended, or None."""
        begun = [record["begin"] for record in self.records() if "begin" in record]
        return begun[-1] if begun and begun[-1] not in self.ends() else None

    def to_do(self):
        ends = self.ends()
        lost = Counter(path_of(name) for name, end in ends.items() if end["status"] in LOST)
        failed = Counter(without_size(name) for name, end in ends.items() if end["status"] == "failed")
        left = [item for item in self.items() if item not in ends]
        return [item for item in left if lost[path_of(item)] < MOST_LOST and failed[without_size(item)] < MOST_FAILED]


def path_of(item):
    return item.split()[0]


def without_size(item):
    return item.rpartition(" ")[0]
