"""How kernels of cells of one's own come to be: compiled once, kept on disk, done without.

Where it is only told whether and where a compiler runs, a script stands in for it.
"""

import os
import re
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from own_cells import GRU, LSTM, randn, run_python

import fastrnn
from fastrnn._cell import build
from fastrnn._cell.build import CannotCompileError, library_of

TINY = """\
import sys, warnings, torch, fastrnn

@fastrnn.cell(gates=1)
def Tiny(x, r, h):
    return torch.tanh(x[0] + r[0])

def check(dtype=torch.float32):
    layer, ours = Tiny(3, 5, dtype=dtype), fastrnn.RNN(3, 5, dtype=dtype)
    ours.load_state_dict(layer.state_dict())
    value = torch.randn(4, 2, 3, dtype=dtype)
    torch.testing.assert_close(layer(value), ours(value))
    torch.testing.assert_close(layer(value)[0].sum().backward(), None)
    return fastrnn.explain(layer, value).rows
"""
WITHOUT_KERNELS = """\
from tiny import *
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = check() + check()
assert [w.category for w in caught] == [RuntimeWarning], caught
assert {row.path for row in rows} == {"formula"}, rows
print(caught[0].message, "|", rows[0].reason, "|", caught[0].filename)
"""
# A compiler's answer to --version; what it does else, of its last argument, follows.
SCRIPT = '#!/bin/sh\n[ "$1" = --version ] && echo stand-in 1.0 && exit\nfor last; do :; done\n'
MAKES_A_FILE = 'sleep 0.2; echo >> "$RUNS"; echo made > "$last"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A function that puts a script in the compiler's place, and an empty cache; it returns how often it has run."""
    runs = tmp_path / "runs"
    runs.touch()

    def install(does=MAKES_A_FILE):
        path = tmp_path / "compiler"
        path.write_text(SCRIPT + does)
        path.chmod(0o755)
        for name, value in (("CXX", path), ("RUNS", runs), ("TORCH_EXTENSIONS_DIR", tmp_path / "cache")):
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("FASTRNN_COMPILE", raising=False)
        build._compiler.cache_clear()
        return lambda: runs.read_text().count("\n")

    yield install
    build._compiler.cache_clear()


def cache_of(folder):
    return folder / "cache" / "fastrnn_cells"


class TestWithoutKernels:
    """Results are right, one warning is given, explain tells why."""

    @pytest.mark.parametrize(
        ("env", "reason"),
        [
            ({"CXX": "/nowhere/g++"}, "no C++ compiler was found: install g++ 12 or later, or set CXX"),
            ({"CXX": ""}, "no C++ compiler was found"),
            ({"FASTRNN_COMPILE": "0"}, "FASTRNN_COMPILE=0 forbids to compile it"),
            ({"CXX": "false"}, "the compiler failed"),
        ],
        ids=str,
    )
    def test_because_none_can_be_made(self, env, reason, folder):
        done = run_python(WITHOUT_KERNELS, folder, TORCH_EXTENSIONS_DIR=str(folder / "cache"), **env)
        warning, told, file = done.stdout.split(" | ")
        assert warning.startswith("Tiny runs step by step on torch ops, which is slow: ")
        assert reason in warning
        assert reason in told
        assert Path(file.strip()).name == "tiny.py"

    def test_because_the_extension_is_of_other_headers(self, monkeypatch):
        """Kernels that read what the extension hands them by another layout may not even end."""
        assert build._native.headers == build._headers_hash()
        monkeypatch.setattr(build._native, "headers", "of others")
        with pytest.raises(CannotCompileError, match="changed since its extension was built: build it again"):
            library_of("Tiny", "a", torch.float32)

    def test_because_the_library_does_not_load(self, folder):
        compiler = folder / "compiler"
        compiler.write_text(SCRIPT + MAKES_A_FILE)
        compiler.chmod(0o755)
        env = {"CXX": str(compiler), "RUNS": str(folder / "runs"), "TORCH_EXTENSIONS_DIR": str(folder / "cache")}
        done = run_python(WITHOUT_KERNELS, folder, **env)
        assert "file too short" in done.stdout or "invalid ELF header" in done.stdout

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float64))
    def test_compiled_layers(self, dtype, folder):
        code = (
            "from tiny import *; warnings.simplefilter('ignore')\n"
            f"layer, value = Tiny(3, 5, dtype={dtype}), torch.randn(4, 2, 3, dtype={dtype})\n"
            "compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)\n"
            "torch.testing.assert_close(compiled(value), layer(value))\n"
            "compiled(value)[0].sum().backward()"
        )
        run_python(code, folder, FASTRNN_COMPILE="0", TORCH_EXTENSIONS_DIR=str(folder / "cache"))


class TestCache:
    def test_serves_the_next_process(self, folder, kept_cells):
        code = (
            "import time; from tiny import *; layer, value = Tiny(3, 5), torch.randn(4, 2, 3)\n"
            "start = time.perf_counter(); layer(value); print(time.perf_counter() - start)\n"
            "assert check()[0].path == 'fused'"
        )
        run_python(code, folder)
        done = [run_python(code, folder, FASTRNN_COMPILE="0") for _ in range(2)]
        assert [run.stderr for run in done] == ["", ""]
        assert min(float(run.stdout) for run in done) < 1

    def test_says_that_it_compiles(self, script, capfd):
        script()
        library_of("Tiny", "a", torch.float32)
        told = capfd.readouterr().err
        assert re.fullmatch(r"fastrnn: compiling the cell Tiny \(\w+, float\) ... \d+\.\d s\n", told)
        library_of("Tiny", "a", torch.float32)
        assert capfd.readouterr().err == ""

    def test_tells_apart_what_differs(self, script, monkeypatch, tmp_path):
        """Header, dtype, instruction set, compiler and our own headers."""
        runs = script()

        def library(header="a", dtype=torch.float32):
            return library_of("Tiny", header, dtype)

        first = library()
        assert library() == first
        others = [library("b"), library(dtype=torch.float64)]
        with monkeypatch.context() as patch:
            patch.setattr(build._native, "isa", "avx2" if build._native.isa != "avx2" else "avx512")
            others.append(library())
        with monkeypatch.context() as patch:
            patch.setattr(build, "_headers_hash", lambda: "another")
            patch.setattr(build._native, "headers", "another")
            others.append(library())
        (tmp_path / "compiler").write_text(SCRIPT.replace("1.0", "2.0") + MAKES_A_FILE)
        build._compiler.cache_clear()
        others.append(library())
        assert len({first, *others}) == runs() == 6
        assert library_of("Tiny", "a", torch.float32) == others[-1]

    def test_is_nobody_elses(self, script, tmp_path):
        script()
        folder = library_of("Tiny", "a", torch.float32).parent
        assert folder == cache_of(tmp_path)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    @pytest.mark.parametrize("mode", (0o770, 0o702, 0o777))
    def test_is_not_used_if_others_may_write_there(self, script, tmp_path, mode):
        runs = script()
        planted = library_of("Tiny", "a", torch.float32)
        planted.parent.chmod(mode)
        ours = library_of("Tiny", "a", torch.float32)
        assert not ours.is_relative_to(tmp_path / "cache")
        assert stat.S_IMODE(ours.parent.stat().st_mode) == 0o700
        assert runs() == 2

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
    def test_is_not_used_if_another_owns_it(self, script, tmp_path):
        script()
        planted = library_of("Tiny", "a", torch.float32)
        os.chown(planted.parent, 65534, -1)
        assert not library_of("Tiny", "a", torch.float32).is_relative_to(tmp_path / "cache")

    def test_may_be_read_only(self, script, tmp_path, monkeypatch):
        """What is there serves; what isn't is made for this process alone."""
        runs = script()
        kept = library_of("Tiny", "a", torch.float32)
        kept.parent.chmod(0o500)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert library_of("Tiny", "a", torch.float32) == kept
        assert not library_of("Tiny", "b", torch.float32).is_relative_to(tmp_path / "cache")
        assert runs() == 2
        kept.parent.chmod(0o700)

    def test_where_no_folder_can_be(self, script, tmp_path):
        script()
        (tmp_path / "cache").write_text("a file")
        assert library_of("Tiny", "a", torch.float32).exists()

    def test_two_processes_at_a_time(self, folder, script):
        script()
        code = (
            "import torch; from fastrnn._cell.build import library_of\n"
            "path = library_of('Tiny', 'a', torch.float32); assert path.read_text() == 'made\\n'; print(path)"
        )
        command = [sys.executable, "-c", code]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        both = [subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        paths = {process.communicate(timeout=120)[0].strip() for process in both}
        assert [process.returncode for process in both] == [0, 0]
        assert paths == {str(path) for path in cache_of(folder).iterdir()}

    def test_two_threads_at_a_time(self, script):
        runs = script()

        @fastrnn.cell(gates=1)
        def Threaded(x, r, h):  # noqa: N802
            return torch.tanh(1.25 * x[0] + r[0])

        layer, results = Threaded(3, 5), []

        def call():
            results.append(layer(torch.ones(2, 1, 3))[0].shape)

        threads = [threading.Thread(target=call) for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the script's library does not load
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(results) == 3
        assert runs() == 1


class TestCompiler:
    @pytest.mark.parametrize(
        ("does", "message"),
        [
            ('echo "cell.h:3: error: boom\nmore" >&2; exit 1\n', "the compiler failed: cell.h:3: error: boom"),
            ("echo cannot begin >&2; exit 1\n", "the compiler failed: cannot begin"),
            ("exit 3\n", "the compiler failed"),
        ],
    )
    def test_that_fails(self, does, message, script, tmp_path, capfd):
        script(does)
        with pytest.raises(CannotCompileError) as caught:
            library_of("Tiny", "a", torch.float32)
        assert str(caught.value).startswith(message)
        assert capfd.readouterr().err.endswith("failed\n")
        assert not list(cache_of(tmp_path).iterdir())

    def test_may_have_arguments(self, script, monkeypatch):
        runs = script()
        monkeypatch.setenv("CXX", f"/usr/bin/env {os.environ['CXX']}")
        build._compiler.cache_clear()
        library_of("Tiny", "a", torch.float32)
        assert runs() == 1

    @pytest.mark.thorough
    @pytest.mark.parametrize("name", ("Lstm", "Step", "cpu", "exp", "Vector"))
    def test_takes_names_of_the_kernels(self, name, tmp_path, kept_cells):
        @fastrnn.cell(gates=1, name=name)
        def another(x, r, h):
            return torch.tanh(x[0] + r[0])

        (tmp_path / "cell.h").write_text(another.source())
        (tmp_path / "cell.cpp").write_text(build._FILE.format(cell=name, type="float"))
        flags = ["-std=c++20", "-fopenmp", "-fsyntax-only", f"-I{tmp_path}", f"-I{build._headers()}"]
        subprocess.run([*build._compiler().command, *flags, str(tmp_path / "cell.cpp")], check=True)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ("bias_ih", "weight_hh", "weight_ih", "bias_hh", "training", "forward", "bias", "options", "hidden_size",
         "init", "mode", "pack_weights", "reset_parameters", "parameters", "qconfig", "Cell", "source", "to"),
    )  # fmt: skip
    def test_weights_hide_no_attribute(self, name):
        with pytest.raises(ValueError, match=f"weight '{name}' has the name of an attribute of layers and cells"):
            fastrnn.cell(gates=1, weights=(name,), name="Hides")(lambda x, r, h, **weights: x[0] + r[0])

    def test_weights_are_not_private(self):
        with pytest.raises(ValueError, match="weight '_w' begins with an underscore"):
            fastrnn.cell(gates=1, weights=("_w",))(lambda x, r, h, **weights: x[0] + r[0])

    def test_gates_and_states_may_have_any(self):
        @fastrnn.cell(gates=("weight_ih", "training"), states=("bias", "forward"))
        def Odd(x, r, bias, forward):  # noqa: N802
            return torch.tanh(x.weight_ih + r.training), 0.5 * forward + bias

        assert set(Odd(3, 5).state_dict()) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}

    def test_one_maths_under_one_name_is_one_cell(self, kept_cells):
        """A module that is imported anew defines its cells again."""

        def make(scale, name="Same"):
            return fastrnn.cell(gates=1, name=name)(lambda x, r, h: torch.tanh(scale * x[0] + r[0]))

        assert make(1.0)._own.key == make(1.0)._own.key != make(2.0)._own.key
        assert make(1.0, "Other")._own.key != make(1.0)._own.key
        assert make(1.0, "Other").__name__ == "Other"

    def test_annotated_like_functions(self):
        def step(x, r, h):
            """Says what it does."""
            return torch.tanh(x[0] + r[0])

        kind = fastrnn.cell(gates=1)(step)
        assert kind.__doc__ == "Says what it does."
        assert kind.__qualname__.endswith("test_annotated_like_functions.<locals>.step")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", (LSTM, GRU))
def test_first_call_may_be_of_any_kind(kind, kept_cells):
    """Under no_grad, of a cell, in explain: each finds the kernels."""
    with torch.no_grad():
        kind.Cell(3, 5, dtype=torch.float64)(randn(2, 3))
    assert fastrnn.explain(kind(3, 5), torch.zeros(2, 3)).rows[0].path == "fused"
