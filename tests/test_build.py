"""What setup.py decides, and what the compiled extension may and may not contain."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn._native as native

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
TORCH_SYMBOLS = ROOT / "tests" / "torch_symbols.txt"
ISA_NAMES = {"avx2": "Avx2", "avx2_int8": "Avx2", "avx512": "Avx512", "avx512_int8": "Avx512Vnni"}


def symbols(*options_and_path):
    return subprocess.run(
        ["nm", "--demangle", *map(str, options_and_path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def undefined_symbols(library):
    """What a library takes from others. Names, each with its kind: U must be found, w may be."""
    return {line[19:]: line[17] for line in symbols("--dynamic", "--undefined-only", library)}


def strangers_to_isa(isa, objects):
    """Weak symbols in an instruction set's object that do not name it."""
    weak = [line for line in symbols(objects / f"csrc/cpu/isa/kernels_{isa}.o") if re.search(r" [WVu] ", line)]
    assert weak, "the templates are gone: this test looks in the wrong place"
    return [line for line in weak if not re.search(rf"\b{ISA_NAMES[isa]}\b", line)]


def unstable_symbols(library):
    """C++ symbols of torch that a library takes outside the stable ABI."""
    undefined = undefined_symbols(library)
    assert any("aoti_torch" in name for name in undefined)
    return [name for name in undefined if re.search(r"\b(at|c10|torch)::", name)]


def symbols_that_a_torch_lacks(library):
    """What a library takes of torch's C symbols that is not in every torch it should serve, with CUDA or without."""
    lines = [line for line in TORCH_SYMBOLS.read_text().splitlines() if not line.startswith("#")]
    home = dict(line.split() for line in lines)
    taken = {name: kind for name, kind in undefined_symbols(library).items() if re.match("(aoti|torch)_", name)}
    assert taken
    return [
        name for name, kind in taken.items() if name not in home or (home[name] == "libtorch_cuda.so" and kind != "w")
    ]


@pytest.mark.parametrize("isa", ISA_NAMES)
def test_no_code_for_one_isa_can_reach_another(isa):
    """A weak symbol that does not name its instruction set could be linked into the path of a lesser one."""
    (objects,) = BUILD.glob("temp*")
    assert not strangers_to_isa(isa, objects)


def test_only_stable_symbols_of_torch():
    """Unstable C++ symbols of torch would tie a build to one version of it."""
    assert not unstable_symbols(native._C.__file__)


def test_every_symbol_is_in_every_torch():
    """So that one build serves them all: the extension would not even load where one is missing."""
    assert not symbols_that_a_torch_lacks(native._C.__file__)


@pytest.mark.parametrize(
    ("name", "kind", "lacking"),
    [
        ("aoti_torch_get_numel", "U", False),
        ("aoti_torch_no_such_thing", "w", True),
        ("torch_no_such_thing", "U", True),
        ("torch_get_current_cuda_blas_handle", "U", True),
        ("torch_get_current_cuda_blas_handle", "w", False),
    ],
)
def test_a_symbol_that_a_torch_lacks_is_found(monkeypatch, name, kind, lacking):
    monkeypatch.setattr(sys.modules[__name__], "undefined_symbols", lambda library: {name: kind})
    assert symbols_that_a_torch_lacks("none") == [name] * lacking


def setup_script():
    """setup.py as a module: it builds only as a program."""
    name = "fastrnn_setup"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "setup.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def script(monkeypatch):
    for name in ("FASTRNN_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    return setup_script()


def test_setuptools_too_old(script, monkeypatch):
    monkeypatch.setattr("setuptools.__version__", "65.5.0")
    with pytest.raises(SystemExit, match=r"setuptools 65.5.0 is too old: 77 or later .* pip install 'setuptools>=77'"):
        script.check_setuptools()


def test_setuptools_is_checked_before_it_reads_the_project(tmp_path):
    """An older one finds fault with pyproject.toml in words of its own, as soon as setup() is called."""
    old = tmp_path / "setuptools" / "command"
    old.mkdir(parents=True)
    refusing = "def setup(**ignored): raise ValueError('invalid pyproject.toml')"
    (old.parent / "__init__.py").write_text(f"__version__ = '65.5.0'\nclass Extension: pass\n{refusing}\n")
    (old / "__init__.py").touch()
    for command in ("build_ext", "build_py"):
        (old / f"{command}.py").write_text(f"class {command}: pass\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fastrnn cannot be built: setuptools 65.5.0 is too old")


def test_setuptools_is_as_new_as_the_project_asks(script):
    assert set(re.findall(r"setuptools>=(\d+)", (ROOT / "pyproject.toml").read_text())) == {
        str(script.OLDEST_SETUPTOOLS)
    }


def test_no_compiler(script, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match=r"no C\+\+ compiler \('no-such-compiler' was not found\). Install g\+\+ 12"):
        script.check_toolchain()


def test_no_headers_of_python(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(SystemExit, match=r"Python.h is missing. Install Python's headers"):
        script.check_toolchain()


def test_no_torch_or_an_isolated_build(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"torch is not installed .* pip install --no-build-isolation \."):
        script.find_torch()


def test_torch_too_old(script, monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.9.1+cpu")
    with pytest.raises(SystemExit, match=r"torch 2.9.1\+cpu is too old: 2.11 or later is needed"):
        script.find_torch()


def test_no_pybind11(script, torch_with, monkeypatch):
    monkeypatch.setitem(sys.modules, "pybind11", None)
    with pytest.raises(SystemExit, match=r"pybind11 is not installed .* pip install pybind11 ninja"):
        script.ninja_file(Path("none"), "g++", torch_with(None), None)


@pytest.fixture
def torch_with(script):
    return lambda cuda, *gpus: script.Torch(include=Path(), lib=Path(), cuda=cuda, gpus=list(gpus))


@pytest.fixture
def toolkit(script, tmp_path, monkeypatch):  # after script, which clears the environment
    """Puts in CUDA_HOME an nvcc that says what it is asked, of CUDA 12.4."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        "#!/bin/sh\n"
        "case $1 in\n"
        "  --version) echo 'Cuda compilation tools, release 12.4, V12.4.131' ;;\n"
        "  --list-gpu-code) printf 'sm_80\\nsm_86\\nsm_89\\nsm_90\\n' ;;\n"
        """  --dryrun) echo '#$ INCLUDES="-I/here/include"'; echo '#$ LIBRARIES= "-L/here/lib"' ;;\n"""
        "esac\n"
    )
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    return str(nvcc)


@pytest.fixture
def no_toolkit(script, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)


@pytest.mark.parametrize(
    ("capabilities", "gpus"),
    [([(12, 0), (9, 0), (9, 0)], ["9.0", "12.0"]), ([(7, 5)], []), ([], [])],
)
def test_gpus_that_are_there(script, monkeypatch, capabilities, gpus):
    monkeypatch.setattr("torch.version.cuda", "12.6")
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(capabilities))
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(capabilities))
    monkeypatch.setattr("torch.cuda.get_device_capability", capabilities.__getitem__)
    assert script.find_torch().gpus == gpus


def test_a_gpu_of_another_make_is_none(script, monkeypatch):
    """ROCm's torch has torch.cuda, too."""
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert script.find_torch().gpus == []


def test_cuda_for_the_gpu_that_is_there(script, torch_with, toolkit):
    cuda = script.find_cuda(torch_with("12.6", "8.6"))
    assert cuda.nvcc == toolkit
    assert cuda.architectures == "-gencode arch=compute_86,code=sm_86"
    assert '"-I/here/include"' in cuda.includes
    assert '"-L/here/lib"' in cuda.libraries


@pytest.mark.usefixtures("toolkit")
@pytest.mark.parametrize(
    ("torch", "wish", "named", "why"),
    [
        (("12.6",), None, None, "torch finds no GPU of compute capability 8.0 or later. FASTRNN_CUDA=1 builds them"),
        ((None,), None, "9.0", "this torch has no CUDA"),
        (("12.6", "9.0"), "0", "9.0", "FASTRNN_CUDA=0"),
    ],
    ids=["no GPU", "no CUDA", "not wanted"],
)
def test_cuda_left_out(script, torch_with, monkeypatch, capfd, torch, wish, named, why):
    for name, value in (("FASTRNN_CUDA", wish), ("TORCH_CUDA_ARCH_LIST", named)):
        if value:
            monkeypatch.setenv(name, value)
    assert script.find_cuda(torch_with(*torch)) is None
    assert re.fullmatch(rf"fastrnn: no CUDA kernels: {why}.*\n", capfd.readouterr().err)


@pytest.mark.usefixtures("toolkit")
@pytest.mark.parametrize("cuda", ["12.6", None])
def test_cuda_insisted_on(script, torch_with, monkeypatch, cuda):
    """Without a GPU; even for a torch without CUDA."""
    monkeypatch.setenv("FASTRNN_CUDA", "1")
    assert script.find_cuda(torch_with(cuda)) is not None


@pytest.mark.usefixtures("toolkit")
def test_cuda_for_chips_that_are_named(script, torch_with, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert script.find_cuda(torch_with("12.6")).architectures == "-gencode arch=compute_90,code=sm_90"


@pytest.mark.parametrize(
    ("fixture", "cuda", "trouble"),
    [("no_toolkit", "13.0", "nvcc was not found"), ("toolkit", "13.0", r"torch has CUDA 13.0, but .* is of CUDA 12.4")],
)
def test_trouble_with_the_toolkit_is_one_line(script, torch_with, fixture, cuda, trouble, request, monkeypatch, capfd):
    request.getfixturevalue(fixture)
    assert script.find_cuda(torch_with(cuda, "9.0")) is None
    assert re.fullmatch(rf"fastrnn: no CUDA kernels: .*{trouble}.*\n", capfd.readouterr().err)
    monkeypatch.setenv("FASTRNN_CUDA", "1")
    with pytest.raises(SystemExit, match=trouble):
        script.find_cuda(torch_with(cuda))


def test_a_wrong_wish_is_an_error(script, torch_with, monkeypatch):
    monkeypatch.setenv("FASTRNN_CUDA", "yes")
    with pytest.raises(SystemExit, match="FASTRNN_CUDA=yes"):
        script.find_cuda(torch_with(None))


@pytest.mark.parametrize(
    ("wanted", "flags"),
    [
        ("8.0", ["80,sm_80"]),
        ("8.0;9.0a 12.0+PTX", ["80,sm_80", "90a,sm_90a", "120,sm_120", "120,compute_120"]),
        (" 10.0f ; 10.0f ", ["100f,sm_100f"]),
    ],
)
def test_architectures(script, toolkit, monkeypatch, wanted, flags):
    """Those that are named, whatever GPU is there."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    expected = ["-gencode arch=compute_" + flag.replace(",", ",code=") for flag in flags]
    assert script.architecture_flags(toolkit, ["8.6"]) == " ".join(expected)


@pytest.mark.parametrize(
    ("gpus", "architectures"),
    [
        (["8.6", "8.9"], ["8.6", "8.9"]),
        ([], ["8.0", "8.6", "9.0+PTX"]),  # what this nvcc knows of the default
        (["8.6", "12.0"], ["8.0", "8.6", "9.0+PTX"]),  # the later GPU's driver compiles the PTX
    ],
)
def test_default_architectures(script, toolkit, gpus, architectures):
    assert script.default_architectures(toolkit, gpus) == architectures


@pytest.mark.parametrize(
    ("x86", "architectures", "targets", "minutes"),
    [
        (True, None, "SSE2, AVX2, AVX-512", 2),
        (False, None, "NEON", 1),
        (True, "code=sm_80 code=sm_90 code=compute_90", "SSE2, AVX2, AVX-512, sm_80, sm_90", 4),
    ],
)
def test_what_is_about_to_be_built_is_said(script, monkeypatch, capfd, x86, architectures, targets, minutes):
    monkeypatch.setattr(script, "IS_X86", x86)
    cuda = architectures and script.Cuda(nvcc="", includes="", libraries="", architectures=architectures)
    script.announce(cuda)
    assert re.fullmatch(rf"fastrnn: building for {targets}: .*about {minutes} min on .*\n", capfd.readouterr().err)


@pytest.mark.parametrize("wanted", ["Hopper", "90", "9.0+SASS"])
def test_a_wrong_architecture_is_an_error(script, toolkit, monkeypatch, wanted):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    with pytest.raises(SystemExit, match=re.escape(wanted)):
        script.architecture_flags(toolkit, [])


def test_every_source_is_built(script):
    """A source that nobody listed would be missing only at run time, or only in one of the two builds."""
    listed = {*script.SOURCES, *script.X86_SOURCES, *script.CUDA_SOURCES}
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".cu")]
    assert listed == {str(path.relative_to(ROOT)) for path in sources}
