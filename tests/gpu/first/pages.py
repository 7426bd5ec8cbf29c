"""Which paths ran on which GPU, in README.md and in docs/: made from the results in benchmarks/results/gpu_first_*/."""

import json
import re
from collections import defaultdict

from first import report
from first.journal import WRONG
from first.report import WAYS
from first.steps import ROOT

# Wherever one of these pages says who has run the kernels, or the one build, it says so in these words.
PAGES = ("README.md", "docs/index.md", "docs/install.md")
SENTENCE = re.compile(r"([Nn]o GPU|[Aa]n NVIDIA [^.;|]*?)\s+ha(?:s|ve)\s+run\s+(them|it)(?:\s+(?:yet|in\s+part))?")
TABLE_PAGE = "docs/gpu.md"
TABLE = re.compile(r"(?<=<!-- made from benchmarks/results -->\n\n).*?(?=\n\n<!-- to here -->)", re.DOTALL)
# Rows of the table beside those of the ways. What the emulated GPU can run, its tests have run.
RAGGED = "packed rows, lengths on the GPU"
CROWDED = "two kernels at once that fill the GPU, and beside others"
SANITIZED = {"memcheck": "compute-sanitizer, memory", "racecheck": "compute-sanitizer, races"}
EMULATED = (*WAYS.values(), RAGGED)


def runs(folder=ROOT / "benchmarks" / "results"):
    """The results of the last run on each GPU, by its name."""
    found = [json.loads(path.read_text()) for path in folder.glob("gpu_first_*/first_run.json")]
    found.sort(key=lambda results: results["date"])
    last = {report.gpu_of(results): results for results in found if not results["rehearsed"]}
    return dict(sorted(last.items()))


def verdicts(results):
    """By row of the table: {"right": precisions or the like, "wrong": ...}; nothing of what did not run."""
    rows = defaultdict(lambda: {"right": {}, "wrong": {}})

    def add(row, what, status):
        if status in ("passed", *WRONG):
            rows[row]["right" if status == "passed" else "wrong"][what] = None

    for step in ("parity", "together"):
        for name, end in report.items_of(results, step):
            first, layer, *others = name.split()
            if first in WAYS:
                add(WAYS[first] if step == "parity" else RAGGED, others[0], end["status"])
            elif step == "together":
                add(CROWDED, layer, end["status"])
    for step in results["steps"]:
        if step["name"] in SANITIZED:
            add(SANITIZED[step["name"]], "bf16", step["status"])
    return rows


def words(verdict):
    right = [what for what in verdict["right"] if what not in verdict["wrong"]]
    parts = (("", right), ("wrong in ", list(verdict["wrong"])))
    return "; ".join(before + ", ".join(whats) for before, whats in parts if whats)


def is_whole(results):
    """Whether every path ran, and was right."""
    rows = verdicts(results)
    return all(rows[row]["right"] and not rows[row]["wrong"] for row in EMULATED)


def sentence(found, what):
    """Who has run them, or it."""
    if not found:
        return f"no GPU has run {what} yet"
    who, have = " and ".join(f"an {gpu}" for gpu in found), "has" if len(found) == 1 else "have"
    return f"{who} {have} run {what}" + ("" if all(map(is_whole, found.values())) else " in part")


def table(found):
    lines = ["| | ran on |", "|---|---|"]
    for row in (*EMULATED, CROWDED, *SANITIZED.values()):
        ran = [(gpu, results["date"], verdicts(results)[row]) for gpu, results in found.items()]
        told = [f"{gpu}, {date}: {words(verdict)}" for gpu, date, verdict in ran if words(verdict)]
        lines.append(f"| {row} | {'; '.join(told) or ('emulated' if row in EMULATED else 'nothing yet')} |")
    return "\n".join(lines)


def renewed(page, text, found):
    """A page's text as it should be."""

    def say(match):
        said = sentence(found, match[2])
        said = said[0].upper() + said[1:] if match[1][0].isupper() else said
        return match[0] if match[0].split() == said.split() else said  # as its lines were broken

    return TABLE.sub(lambda _: table(found), text) if page == TABLE_PAGE else SENTENCE.sub(say, text)


def write():
    found = runs()
    for page in (*PAGES, TABLE_PAGE):
        path = ROOT / page
        path.write_text(renewed(page, path.read_text(), found))
