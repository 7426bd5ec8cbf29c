"""The commands of the README, the site, and the files of benchmarks/ and examples/ can be typed as they stand.

Always: what each one names is there, be it a target of make, a script, an option, a marker or a file. Where asked for
(`make test PYTEST_ARGS="-m long tests/test_readme_commands.py"`, two builds): those that install run in a fresh clone
with a fresh virtual environment, and what they promise is tried.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
README, INSTALL = ROOT / "README.md", ROOT / "docs" / "install.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "performance.py",
    *(page for pattern in ("docs/*.md", "csrc/README.md", "benchmarks/*.md") for page in ROOT.glob(pattern)),
    *(page for folder in ("benchmarks", "examples") for page in (ROOT / folder).glob("*.py")),
]
COMMAND = r"(?:[A-Z_]+=\S+ )*(?:make|pip|python3?|pytest|torchrun|\.venv/bin/\S+) [^\n]+"
# What the long tests install in place of the newest torch, which may be younger than what was tried with fastrnn.
TORCH = ("pip install torch ", "pip install torch==2.13.0 ")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """Those in blocks of sh, those that are indented, and those between backquotes."""
    text = page.read_text()
    if page.suffix == ".py":
        text = "\n".join(re.findall(r'"""(.*?)"""', text, re.DOTALL))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [line for block in blocks(page, "sh") for line in block.replace("\\\n", "").splitlines()]
    found += re.findall(rf"^    ({COMMAND})", prose, re.MULTILINE)
    quoted = (code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose))
    found += [code for code in quoted if re.fullmatch(COMMAND, code)]
    return [part for line in found for part in re.sub(" +#.*", "", line).split(" && ")]


ALL = sorted({command for page in PAGES for command in commands(page)})


def environment(**changes):
    """Without what make hands down where it runs these tests."""
    names = {"PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", *re.findall(r"^(\w+) \?=", MAKEFILE, re.MULTILINE)}
    return {**{name: value for name, value in os.environ.items() if name not in names}, **changes}


def said_by(*command, folder=ROOT, **options):
    options.setdefault("env", environment())
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}"
    return done.stdout


# What is there


@functools.cache
def help_of(script):
    if script.startswith("examples/"):
        for package in re.findall(r"^(?:import|from) (\w+)", (ROOT / script).read_text(), re.MULTILINE):
            if not (ROOT / "examples" / f"{package}.py").exists():
                pytest.importorskip(package, reason=f"make examples installs {package}")
    return said_by(sys.executable, script, "--help")


def check_script(script, *arguments):
    assert (ROOT / script).is_file()
    for option in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        assert re.search(rf"{option}\b", help_of(script)), f"{script} has no {option}"


@functools.cache
def check_pytest(*arguments):
    """It fails by itself where a file or a marker is not there, or where no test is left."""
    said_by(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "--quiet", *arguments)


def check_python(*arguments):
    if arguments[:2] == ("-m", "pytest"):
        check_pytest(*arguments[2:])
    elif arguments[0] != "-m":
        check_script(*arguments)
    elif arguments[1] != "pip":
        said_by(sys.executable, *arguments, "--help", env=environment(PYTHONPATH=str(ROOT)))


def check_make(*arguments):
    """Target and variables are the Makefile's, and what it runs takes what the variables hand on."""
    plan = said_by("make", "--dry-run", *arguments)
    variables = [word.partition("=")[0] for word in arguments if "=" in word]
    for name in variables:
        assert f"$({name})" in MAKEFILE, f"the Makefile has no {name}"
    if variables:
        for line in re.findall(r'(?:\.venv/bin/python|"python3") ((?:-m pytest|(?!setup)\S+\.py).*)', plan):
            check_python(*shlex.split(line))


@pytest.mark.parametrize("command", ALL)
def test_what_it_names_is_there(command):
    words = shlex.split(command)
    while re.match("[A-Z_]+=", words[0]):  # the environment
        del words[0]
    program, *arguments = words
    if program == "make":
        check_make(*arguments)
    elif program == ".venv/bin/python":
        check_python(*arguments)
    elif program == "pytest":
        assert arguments[0] == "tests"  # where they are looked for without it: one collection serves both
        check_pytest(*arguments[1:])
    elif program == ".venv/bin/torchrun":
        script = next(i for i, argument in enumerate(arguments) if argument.endswith(".py"))
        check_script(*arguments[script:])
    elif program == "python":
        assert arguments[:2] == ["-m", "fastrnn"], "a Python on the path may have fastrnn, but is not for the clone"
        check_python(*arguments)
    else:
        assert program in ("pip", ".venv/bin/pre-commit"), "this may not be on the path: .venv/bin/ comes before it"


def test_commands_are_found():
    assert {"make demo", "make wheel", 'make bench THREADS="1 2"'} <= set(ALL)
    assert any(command.startswith(".venv/bin/python benchmarks/suite.py --cells") for command in ALL)
    assert any(command.startswith(".venv/bin/torchrun") for command in ALL)


# What they do


@pytest.fixture
def clone(tmp_path):
    """The last commit, as a reader gets it."""
    said_by("git", "clone", "--quiet", ROOT, tmp_path / "fastrnn")
    return tmp_path / "fastrnn"


def check_fastrnn(python, folder):
    """There that Python finds fastrnn, and it can do what the README shows."""
    for block in blocks(README, "python"):
        said_by(python, "-c", block, folder=folder)
    assert "LSTM inference" in said_by(python, "-m", "fastrnn", "--seconds", "0.1", folder=folder)


INSTALLS = sorted({block for page in (README, INSTALL) for block in blocks(page, "sh") if "pip install" in block})


@pytest.mark.long
@pytest.mark.parametrize("block", INSTALLS, ids=range(len(INSTALLS)))
def test_install(block, clone, tmp_path):
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    said_by(sys.executable, "-m", "venv", venv)
    assert TORCH[0] in block
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    said_by("sh", "-e", "-c", block.replace(*TORCH), folder=clone, env=environment(PATH=path))
    check_fastrnn(venv / "bin" / "python", elsewhere)


@pytest.mark.long
def test_try_it(clone):
    """`make test`, the block's other half, is what runs the tests every day."""
    assert "make demo " in blocks(README, "sh")[0]
    assert "speed, fastrnn / torch" in said_by("make", "demo", folder=clone)
    assert (clone / "examples" / "out" / "char_lstm.png").exists()
    check_fastrnn(clone / ".venv" / "bin" / "python", clone)
