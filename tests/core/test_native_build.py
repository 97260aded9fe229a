"""Which implementation of the fused norm serves, and what it takes to have the kernel of a CPU."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from msdm_kit.core import kernels
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.kernels import cpp, native, norm_op, norm_twin
from msdm_kit.core.norm import norm_modulate_silu

LAST = torch.channels_last
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(command[0]) for command in cpp.compilers()), reason="no C++ compiler"
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process with an empty cache; yields the folder of compiled kernels."""
    folder = tmp_path / "cache" / "kernels"
    monkeypatch.setenv("MSDM_KIT_CACHE", str(folder.parent))
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    native.library.cache_clear()
    kernels.enabled.cache_clear()
    yield folder
    native.library.cache_clear()
    kernels.enabled.cache_clear()


@pytest.fixture
def stand_in(fresh, monkeypatch):
    """The only compiler is one that takes a moment and hands out, bit by bit, what the real one has made."""
    monkeypatch.delenv("MSDM_KIT_CACHE")
    library = native.library()
    assert library is not None
    monkeypatch.setenv("MSDM_KIT_CACHE", str(fresh.parent))
    native.library.cache_clear()
    script = fresh.parent.parent / "compiler"
    script.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo stand-in 1; exit; fi\nfor last; do :; done\n'
        f'head -c 1000 {library._name} > "$last"; sleep 0.3; tail -c +1001 {library._name} >> "$last"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(cpp, "compilers", lambda: [[str(script)]])
    return script


H = torch.randn(1, 8, 4, 4).to(memory_format=LAST)


def test_no_compiler_is_said_once_and_the_twin_serves(fresh, monkeypatch, caplog):
    monkeypatch.setattr(cpp, "compilers", list)
    with caplog.at_level("INFO", logger="msdm_kit"):
        assert [norm_op.implementation(H) for _ in range(3)] == [norm_twin] * 3
    assert [r.getMessage() for r in caplog.records] == [
        "norms run in plain torch on the CPU: no C++ compiler found"
    ]
    assert norm_modulate_silu(H, 2).shape == H.shape


def test_a_compiler_that_fails_is_no_error(fresh, monkeypatch, caplog):
    monkeypatch.setattr(cpp, "compilers", lambda: [[sys.executable]])
    with caplog.at_level("INFO", logger="msdm_kit"):
        assert native.library() is None
    assert re.search(re.escape(sys.executable) + ": ", caplog.text)
    assert not list(fresh.glob("*.so"))


@needs_compiler
@pytest.mark.parametrize("end", ["kill -9 $$", "echo 'fatal error: Killed signal terminated' >&2; exit 1"])
def test_a_compiler_that_is_killed_is_run_again_with_the_same_flags(stand_in, fresh, tmp_path, end):
    """With others, or without kernels, numbers would round otherwise."""
    library = native.library()._name
    native.library.cache_clear()
    os.unlink(library)
    script, left = fresh.parent.parent / "compiler", tmp_path / "left"
    left.touch()
    text = script.read_text().partition("\n")[2]
    script.write_text(f"#!/bin/sh\nif [ -e {left} ]; then rm {left}; {end}; fi\n{text}")
    assert native.library()._name == library
    assert not left.exists()


def test_flags_that_a_compiler_does_not_know_are_left_out(fresh, monkeypatch):
    monkeypatch.setattr(cpp, "FLAGS", ((*cpp.BASE, "-march=no-such-machine"), cpp.BASE))
    assert native.library() is not None
    # the narrow vectors of the least of machines give the same
    h, scale = torch.randn(1, 20, 5, 5).bfloat16().to(memory_format=LAST), torch.randn(1, 20)
    gamma_beta = torch.randn(1, 40, 5, 5).bfloat16()
    args = (h, 4, None, None, gamma_beta, scale, scale, True)
    ours, twin = (m.forward(*args)[0].float() for m in (native, norm_twin))
    torch.testing.assert_close(ours, twin, rtol=2**-7, atol=1e-5)


@needs_compiler
def test_compiled_once_and_loaded_by_the_next(stand_in, fresh, monkeypatch):
    assert native.library() is not None
    (made,) = fresh.iterdir()
    assert re.fullmatch(r"norm-[0-9a-f]{24}\.so", made.name)
    native.library.cache_clear()
    monkeypatch.setattr(cpp, "build", only_from_cache(cpp.build))
    assert native.library() is not None


def only_from_cache(build):
    def checked(source, compiler, flags, folder):
        before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
        path = build(source, compiler, flags, folder)
        assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
        return path

    return checked


@needs_compiler
def test_two_at_once_leave_one_whole_library(stand_in, fresh):
    sizes = set()
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(cpp.build, "norm.cpp", [str(stand_in)], cpp.BASE, fresh) for _ in range(2)]
        while not all(b.done() for b in builds):
            sizes |= {p.stat().st_size for p in fresh.glob("*.so")}
            time.sleep(0.005)
    paths = [b.result() for b in builds]
    assert paths[0] == paths[1]
    assert sizes <= {paths[0].stat().st_size}
    assert list(fresh.iterdir()) == [paths[0]]
    assert native.library() is not None


@needs_compiler
def test_a_cache_that_cannot_be_written(stand_in, fresh, caplog):
    fresh.parent.mkdir()
    fresh.write_text("a file where the folder should be")
    with caplog.at_level("INFO", logger="msdm_kit"):
        assert norm_op.implementation(H) is native
    assert "compiled by each process" in caplog.text
    assert fresh.is_file()


@needs_compiler
@pytest.mark.parametrize(("which", "mode"), [("folder", 0o777), ("folder", 0o720), ("library", 0o702)])
def test_a_cache_that_others_may_write_to_is_not_loaded_from(stand_in, fresh, which, mode):
    path = cpp.build("norm.cpp", [str(stand_in)], cpp.FLAGS[0], fresh)
    path.write_text("not ours")
    (fresh if which == "folder" else path).chmod(mode)
    assert native.library() is not None
    assert path.read_text() == "not ours"


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files")
def test_a_cache_of_another_user_is_not_loaded_from(stand_in, fresh, monkeypatch, caplog):
    path = cpp.build("norm.cpp", [str(stand_in)], cpp.FLAGS[0], fresh)
    path.write_text("not ours")
    # what this process makes in its temporary folder counts as ours still
    own, lstat = os.geteuid(), Path.lstat

    def of_another(self):
        found = lstat(self)
        fields = [*found[:4], own + 1 if fresh in (self, self.parent) else own, *found[5:]]
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "lstat", of_another)
    with caplog.at_level("INFO", logger="msdm_kit"):
        assert native.library() is not None
    assert "belongs to another user" in caplog.text
    assert path.read_text() == "not ours"


@needs_compiler
def test_a_link_in_the_cache_is_not_loaded(stand_in, fresh, tmp_path):
    path = cpp.build("norm.cpp", [str(stand_in)], cpp.FLAGS[0], fresh)
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    (tmp_path / "elsewhere.so").write_text("not ours")
    assert native.library() is not None


@needs_compiler
def test_no_home(stand_in, monkeypatch):
    def missing():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cpp, "cache_folder", missing)
    assert native.library() is not None


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MSDM_KIT_CACHE", str(tmp_path / "own"))
    assert cpp.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MSDM_KIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cpp.cache_folder() == tmp_path / "xdg" / "msdm-kit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cpp.cache_folder() == Path.home() / ".cache" / "msdm-kit"


def test_the_compiler_of_the_environment_comes_first(monkeypatch):
    monkeypatch.setenv("CXX", "wrapper my-compiler")
    assert cpp.compilers()[0] == ["wrapper", "my-compiler"]
    monkeypatch.delenv("CXX")
    assert all(len(c) == 1 and shutil.which(c[0]) for c in cpp.compilers())


def test_switched_off_the_twin_serves(fresh, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, "off")
    assert norm_op.implementation(H) is norm_twin
    assert not fresh.exists()


@needs_compiler
def test_switched_on_the_kernel_serves_what_it_is_made_for(stand_in):
    assert norm_op.implementation(H) is native
    assert norm_op.implementation(H.bfloat16()) is native
    assert norm_op.implementation(H.double()) is norm_twin
    assert norm_op.implementation(H.contiguous()) is norm_twin


def test_the_switch_is_on_or_off(fresh, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, "yes")
    with pytest.raises(MsdmError, match="MSDM_KIT_KERNELS is 'yes': set it to on or off"):
        kernels.enabled()


def test_importing_compiles_nothing(tmp_path):
    code = "import msdm_kit.core.norm, msdm_kit.plugins.injectors.spade"
    env = os.environ | {"MSDM_KIT_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert not (tmp_path / "cache").exists()
