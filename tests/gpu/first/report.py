"""What came of a first run, to read: from the results that first_run.py keeps as JSON."""

import textwrap
from collections import Counter, defaultdict

from first.journal import WRONG

# Of the kernels, with words for docs/gpu.md.
WAYS = {
    "streamed": "streamed",
    "persistent": "persistent",
    "split": "persistent, backward split over clusters",
    "cluster": "cluster",
}
MOST_FAULTS, WIDTH = 40, 160
TIMES = "us a step (torch.nn's over ours, our streamed path's over ours); host us a call"


def withhold(results):
    """Takes the times out whose path computed something wrong elsewhere, whatever the benchmark itself compared."""
    found = defaultdict(set)
    for name, end in items_of(results, "parity"):
        way, layer, *others = name.split()
        if way in WAYS and end["status"] in WRONG:
            found[layer, others[0]].add(way)
    for name, end in items_of(results, "timing"):
        layer, precision, _ = name.split()
        paths = set(end.get("figures", {}).get("path", "").split(", "))
        if "persistent" in paths:
            paths.add("split")
        wrong = paths & found[layer, precision]
        if wrong and end["status"] == "passed":
            end |= {"status": "withheld", "why": f"parity: {', '.join(sorted(wrong))}", "figures": {}}


def items_of(results, step):
    """Names and records of a step's items."""
    steps = {each["name"]: each for each in results["steps"]}
    return list(steps.get(step, {}).get("items", {}).items())


def figures_of(results, step, item):
    return dict(items_of(results, step)).get(item, {}).get("figures", {})


def gpu_of(results):
    return "emulated GPU" if results["rehearsed"] else figures_of(results, "versions", "versions").get("gpu", "no GPU")


def parity_of(results):
    """By way and precision: how many items passed, and how many ran."""
    table = defaultdict(Counter)
    for name, end in items_of(results, "parity"):
        way, _, *others = name.split()
        if way in WAYS:
            table[way, others[0]][end["status"]] += 1
    return {
        key: (counts["passed"], counts["passed"] + sum(counts[bad] for bad in WRONG)) for key, counts in table.items()
    }


def faults(results):
    for step in results["steps"]:
        for name, end in step.get("items", {}).items():
            if end["status"] in WRONG:
                why = textwrap.shorten(end["why"], WIDTH)
                yield f"{end['status'].upper()} {step['name']}: {name}: {why}"


def summary(results):
    versions = figures_of(results, "versions", "versions")
    lines = [f"{gpu_of(results)}, torch {versions.get('torch', '?')}, {results['date']}", ""]
    for step in results["steps"]:
        why = f": {step['why']}" if step["why"] else ""
        lines.append(f"{step['status']:>10}  {step['name']}, {step['seconds']:.0f} s{why}")
    found = list(faults(results))
    more = [f"... and {len(found) - MOST_FAULTS} more in the JSON"] if len(found) > MOST_FAULTS else []
    sections = (
        ("right, of those that ran", parity_lines(results)),
        ("what fits at once, LSTM", list(fit_lines(results))),
        (TIMES, list(timing_lines(results))),
        ("faults", found[:MOST_FAULTS] + more),
    )
    for title, section in sections:
        if section:
            lines += ["", f"{title}:", *section]
    return "\n".join(lines)


def parity_lines(results):
    table = parity_of(results)
    precisions = dict.fromkeys(precision for _, precision in table)
    lines = []
    for way in WAYS:
        counts = [(name, *table.get((way, name), (0, 0))) for name in precisions]
        told = [f"{name} {right}/{ran}" for name, right, ran in counts if ran]
        lines += [f"  {way:10} {', '.join(told)}"] * bool(told)
    return lines + list(not_taken_lines(results))


def not_taken_lines(results):
    """What no GPU need have room for, but where it has, a plan may have gone astray."""
    found = defaultdict(lambda: defaultdict(dict))
    for name, end in items_of(results, "parity"):
        if end["status"] == "not taken":
            way, layer, precision, size = name.split()
            found[way][layer, precision][size] = None
    for way, calls in found.items():
        told = (f"{layer} {precision} {' '.join(sizes)}" for (layer, precision), sizes in calls.items())
        yield f"  {way} not taken: {'; '.join(told)}"


def fit_lines(results):
    """Of the cell with the most gates; the others are in the JSON."""
    rows = [row for row in figures_of(results, "fit", "resident").get("rows", []) if row["cell"] == "LSTM"]
    for path in ("cluster", "persistent", "split"):
        for precision in dict.fromkeys(row["precision"] for row in rows):
            these = [row for row in rows if (row["path"], row["precision"]) == (path, precision)]
            found = (f"H{row['hidden']} {row['pass'][0]} {row['count']}x{row['blocks']}" for row in these)
            if these:
                yield f"  {path} {precision}: {', '.join(found)}"


def timing_lines(results):
    for name, end in items_of(results, "timing"):
        figures = end.get("figures", {})
        if end["status"] == "withheld":
            yield f"  {name:17} no times: {end['why']}"
        elif end["status"] == "passed":
            passes = (f"{which} {times(figures[which])}" for which in ("forward", "backward"))
            yield f"  {name:17} {', '.join(passes)}; host {figures['host_us']:.0f}; {figures['path']}"


def times(us):
    """Ours, and the others over ours; "-" where the streamed path was chosen."""
    ratios = (f"{us[whose] / us['ours']:.2f}" if whose in us else "-" for whose in ("torch.nn", "streamed"))
    return f"{us['ours']:.2f} ({', '.join(ratios)})"
