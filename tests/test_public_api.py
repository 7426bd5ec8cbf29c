"""The public API is the one in public_api.txt: names, signatures with their overloads, documented attributes.

Read from the sources, whose text is the same for every Python and torch. After a change that users are to see,

    .venv/bin/python tests/test_public_api.py

writes the file anew.
"""

import ast
import difflib
import inspect
import re
import sys
from pathlib import Path

import pytest

import fastrnn

SNAPSHOT = Path(__file__).with_name("public_api.txt")
API_PAGE = Path(__file__).parent.parent / "docs" / "api.md"
CALLS = ("__init__", "__call__")
# As a list of several begins: "bias_h, bias_o: (H,) and (O,)".
ATTRIBUTES = r"^    ((?:[\w\[\]]+, )*[\w\[\]]+): "

FAILURE = """The public API is no longer that of tests/public_api.txt:

{changes}

docs/versions.md says which version may change it. If it is meant,
    .venv/bin/python tests/test_public_api.py
writes the file anew, and CHANGELOG.md tells users."""


def definitions(body, name):
    """Those of a function in a module's or class's body: its overloads, or else the one there is."""
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    overloads = [node for node in found if "overload" in map(ast.unparse, node.decorator_list)]
    return overloads or found[:1]  # a property's setter comes second


def signature(node):
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"


def of_function(name, function, within):
    return [f"{name}{signature(node)}" for node in definitions(within, function)]


def of_method(name, method, within):
    """A constructor goes by its class's name."""
    if "property" in map(ast.unparse, definitions(within, method)[0].decorator_list):
        return [f"{name}.{method}"]
    return of_function(name if method == "__init__" else f"{name}.{method}", method, within)


def of_class(name, kind):
    """What the class has of fastrnn's, inherited or not, and the attributes that its docstring names."""
    members = {}
    for base in kind.__mro__:
        if base.__module__.split(".")[0] != "fastrnn":
            continue
        body = ast.parse(inspect.getsource(sys.modules[base.__module__])).body
        (node,) = (node for node in body if getattr(node, "name", None) == base.__name__)
        if isinstance(node, ast.FunctionDef):  # what fastrnn.cell made the class of
            members["cell"] = [f"{name}: {ast.unparse(node.decorator_list[0])}"]
            continue
        for child in node.body:
            if isinstance(child, ast.FunctionDef) and (child.name in CALLS or child.name[0] != "_"):
                members.setdefault(child.name, of_method(name, child.name, node.body))
            elif isinstance(child, ast.AnnAssign) and child.target.id[0] != "_":
                members.setdefault(child.target.id, [f"{name}.{ast.unparse(child)}"])
            elif isinstance(child, ast.Assign) and child.targets[0].id[0] != "_":  # another name
                members.setdefault(child.targets[0].id, [f"{name}.{ast.unparse(child)}"])
    documented = re.search(r"^Attributes:\n((?:    .*\n|\n)*)", f"{inspect.getdoc(kind)}\n", re.MULTILINE)
    for names in re.findall(ATTRIBUTES, documented[1] if documented else "", re.MULTILINE):
        for attribute in names.split(", "):
            members.setdefault(attribute, [f"{name}.{attribute}"])
    return [line for _, lines in sorted(members.items()) for line in lines]


def public_api():
    """A line for each thing."""
    lines = []
    for name in sorted(fastrnn.__all__):
        value, where = getattr(fastrnn, name), f"fastrnn.{name}"
        if inspect.ismodule(value):
            body = ast.parse(inspect.getsource(value)).body
            for function in sorted(value.__all__):
                lines += of_function(f"{where}.{function}", function, body)
        elif inspect.isclass(value):
            lines += [f"class {where}", *of_class(where, value)]
        else:
            lines += of_function(where, name, ast.parse(inspect.getsource(sys.modules[value.__module__])).body)
    return lines


def test_public_api():
    changes = list(difflib.unified_diff(SNAPSHOT.read_text().splitlines(), public_api(), "was", "is", "", "", 0, ""))
    if changes:
        pytest.fail(FAILURE.format(changes="\n".join(changes)), pytrace=False)


def test_reference_page_has_every_name():
    on_page = set(re.findall(r"^\.\. auto\w+:: (?:fastrnn\.)?(\w+)$", API_PAGE.read_text(), re.MULTILINE))
    assert set(fastrnn.__all__) <= on_page


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{line}\n" for line in public_api()))
    print(f"wrote {SNAPSHOT}")
