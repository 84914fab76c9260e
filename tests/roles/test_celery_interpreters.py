"""Another Python than the distribution's: what is refused of it, and how long a host keeps it."""

import contextlib
import io
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_up_projects import BUILD, PYPROJECT, collect, find, write
from support.role_files import CHECKOUT, load_module, load_shared

bundle = load_module("celery_bundle")
current = load_module("celery_current")
release = load_module("celery_release")
content = load_shared("celery_content")
elf = load_shared("celery_elf")
host = load_shared("celery_host")
interpreter = load_shared("celery_interpreter")
pythons = load_shared("celery_pythons")
releases = load_shared("celery_releases")
source = load_shared("celery_source")

TARGET = host.this_machine()._replace(python="3.13")
# A program of this machine.
PROGRAM = Path("/usr/bin/env").read_bytes()
LOADER = b"/lib64/ld-linux-x86-64.so.2"
FILES = {"bin/python3.12": PROGRAM, "lib/python3.12/os.py": b"", "lib/python3.12/venv/__init__.py": b""}


def archive(path: Path, files: dict[str, bytes], top: str = "python/", mode: Any = "w:gz") -> Path:
    """An archive of a Python; ``bin/python3`` in it is a link."""
    with tarfile.open(path, mode) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(top + name)
            member.size, member.mode = len(text), 0o755 if "bin/" in name else 0o644
            tar.addfile(member, io.BytesIO(text))
        if "bin/python3.12" in files:
            link = tarfile.TarInfo(f"{top}bin/python3")
            link.type, link.linkname = tarfile.SYMTYPE, "python3.12"
            tar.addfile(link)
    return path


@pytest.mark.parametrize(
    ("top", "mode"), [("python/", "w:gz"), ("", "w:xz"), ("./", "w"), ("python/install/", "w:bz2")]
)
def test_an_archive_is_read_as_it_is_published(tmp_path: Path, top: str, mode: str) -> None:
    file = archive(tmp_path / "python", FILES, top, mode)

    found = interpreter.find_interpreter(file, "", TARGET, tmp_path)

    assert found.python == "3.12"
    with tarfile.open(found.archive) as packed:
        assert {"bin/python3", "bin/python3.12", "lib/python3.12/os.py"} <= set(packed.getnames())
        assert packed.getmember("bin/python3.12").mode == 0o755
    before = found.archive.stat().st_ino
    assert interpreter.find_interpreter(file, "", TARGET, tmp_path) == found
    assert found.archive.stat().st_ino == before, "it was unpacked again"


def linked_outside(path: Path) -> Path:
    """An archive with a link to a file of the host."""
    with tarfile.open(archive(path, FILES, mode="w"), "a") as tar:
        link = tarfile.TarInfo("python/lib/secrets")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(link)
    return path


def cut(path: Path) -> Path:
    """An archive whose end is missing."""
    archive(path, FILES)
    path.write_bytes(path.read_bytes()[:-10_000])
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "/python.tar.gz does not exist"),
    "no archive": (lambda path: write(path, "<html>"), "is no tar archive that can be read"),
    "cut": (cut, "is no tar archive that can be read"),
    "outside": (linked_outside, "is no tar archive that can be read"),
    "no python": (lambda path: archive(path, {"README": b""}), "holds no bin/python3"),
    "no library": (lambda path: archive(path, {"bin/python3.12": PROGRAM}), "holds 0 standard libraries"),
    "two": (
        lambda path: archive(path, FILES | {"lib/python3.13/os.py": b""}),
        "holds 2 standard libraries",
    ),
    "free threads": (
        lambda path: archive(path, {"bin/python3.12": PROGRAM, "lib/python3.13t/os.py": b""}),
        "holds Python 3.13t; allowed: an ordinary build",
    ),
    "mac": (
        lambda path: archive(path, FILES | {"bin/python3.12": b"\xcf\xfa\xed\xfe" * 99}),
        "has a bin/python3 that cannot run on the host: it is no program of Linux",
    ),
    "machine": (
        lambda path: archive(path, FILES | {"bin/python3.12": PROGRAM[:18] + b"\xf3\0" + PROGRAM[20:]}),
        "is for riscv64, and the host is",
    ),
    "musl": (
        lambda path: archive(
            path,
            FILES | {"bin/python3.12": PROGRAM.replace(LOADER, b"/lib/ld-musl-x86_64.so.1\0\0\0")},
        ),
        "is for musl, and the host has glibc",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_on_the_host_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    file = make(tmp_path / "python.tar.gz")

    with pytest.raises(source.BundleError) as refused:
        interpreter.find_interpreter(file, "", TARGET, tmp_path)

    said = str(refused.value)
    assert said.startswith("celery_app_python: "), said
    assert words in said, said
    assert "\n" not in said
    assert str(tmp_path / "pythons") not in said


def test_an_older_host_and_another_hash_are_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "python.tar.gz", FILES)

    with pytest.raises(source.BundleError, match=r"needs glibc 2\.\d+, and the host has 2\.5"):
        interpreter.find_interpreter(file, "", TARGET._replace(glibc="2.5"), tmp_path)
    with pytest.raises(source.BundleError, match=r"the SHA-256 of python\.tar\.gz is [0-9a-f]{64}, not 00"):
        interpreter.find_interpreter(file, "00", TARGET, tmp_path)


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x7fELF\x02\x01", b"\x7fELF\x01\x02"]))
def test_any_bytes_are_a_program_or_refused(content: bytes, begin: bytes) -> None:
    with contextlib.suppress(elf.NotElfError):
        elf.read_elf(begin + content)


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8), st.data())
def test_a_damaged_program_is_read_or_refused(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(PROGRAM[: data.draw(st.integers(0, 20_000))])
    for position, value in changes:
        if position < len(damaged):
            damaged[position] = value
    with contextlib.suppress(elf.NotElfError):
        elf.read_elf(bytes(damaged))


def test_a_program_says_which_glibc_it_needs() -> None:
    program = elf.read_elf(PROGRAM)

    assert program.machine == TARGET.machine
    assert (2, 0) < program.glibc <= tuple(map(int, TARGET.glibc.split(".")))
    assert "ld-linux" in program.loader


@pytest.mark.parametrize(
    ("specifiers", "good"),
    [
        ("", True),
        (">=3.12", True),
        ("==3.13.*", True),
        (">=3.13.7,<3.14", True),
        ("<3.13", False),
        ("~=3.12.1", False),
    ],
)
def test_a_project_is_refused_that_does_not_run_on_the_python(specifiers: str, good: bool) -> None:
    if good:
        host.refuse_other_python("shop", specifiers, TARGET)
        return
    with pytest.raises(
        source.BundleError, match=r"^shop needs Python .* runs it with 3\.13 \(celery_app_python"
    ):
        host.refuse_other_python("shop", specifiers, TARGET)


@pytest.mark.parametrize("is_built", [True, False])
def test_the_python_of_the_host_counts_and_not_that_of_the_controller(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_built: bool
) -> None:
    write(project / "pyproject.toml", PYPROJECT.replace('"1"', '"1"\nrequires-python = "==3.99.*"'))
    backend = (project / "backend.py").read_text()
    write(
        project / "backend.py",
        backend.replace("Version: 1\\n", "Version: 1\\nRequires-Python: ==3.99.*\\n", 1),
    )
    found = find(project, tmp_path / "cache")._replace(builds=is_built)
    monkeypatch.setattr(content, "bring_locked", lambda *_: [])

    with pytest.raises(source.BundleError, match=r"^proj needs Python ==3\.99\.\*"):
        collect(found, tmp_path, tmp_path / "cache")

    def on(python: str) -> Any:
        made = content.Content(
            TARGET._replace(python=python), (found,), content.Lock({}), "",
            content.Supplies(tmp_path / "cache", BUILD),
        )  # fmt: skip
        (tmp_path / python).mkdir()
        return content.collect_wheels(tmp_path / python, made)

    on("3.99")


def test_another_python_is_another_release_and_none_is_the_same_as_before(
    project: Path, tmp_path: Path
) -> None:
    write(project / "requirements.txt", "")
    (tmp_path / "cache").mkdir()
    file = archive(tmp_path / "python.tar.gz", FILES)

    def made(**given: Any) -> Any:
        params = {n: o.get("default") for n, o in bundle.ARGUMENTS.items()} | TARGET._asdict()
        params |= {
            "source": str(project), "requirements": "requirements.txt", "cache": str(tmp_path / "cache"),
            "installer": str(CHECKOUT / "roles/celery_app/files/pip.txt"), "build": str(BUILD), "tools": "",
        }  # fmt: skip
        return bundle.make(params | given, True)

    plain, other = made(), made(interpreter=str(file))

    assert plain["release"] == content.release_id([find(project, tmp_path)], project / "requirements.txt")
    assert (plain["python"], plain["interpreter"]) == ("3.13", {})
    assert (other["python"], other["interpreter"]["id"]) == (
        "3.12",
        made(interpreter=str(file))["interpreter"]["id"],
    )
    assert plain["release"] != other["release"]
    assert plain["project"] != other["project"]


# --- On the host ---------------------------------------------------------------------------------------

WORKS = {"bin/python3": b"#!/bin/sh\nexit 0\n", "lib/python3.12/os.py": b""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a host has its Pythons."""
    monkeypatch.setattr(pythons, "FOLDER", tmp_path / "pythons")
    monkeypatch.setattr(pythons, "LOCK", tmp_path / "lock")
    return tmp_path / "pythons"


def a_release(path: Path) -> Path:
    """The directory of a release."""
    path.mkdir(parents=True)
    return path


def test_a_host_has_a_python_once_and_until_no_release_uses_it(folder: Path, tmp_path: Path) -> None:
    file = archive(tmp_path / "python.tar.gz", WORKS, top="")
    shop, news = a_release(tmp_path / "shop/releases/r1"), a_release(tmp_path / "news/releases/r1")

    pythons.use("abc", file, shop)
    file.unlink()
    pythons.use("abc", file, news)

    assert stat.S_IMODE((folder / "abc").stat().st_mode) == 0o755
    assert pythons.program_of("abc").exists()
    shop.rmdir()
    assert pythons.prune() == []
    news.rmdir()
    (folder / ".new-killed/new").mkdir(parents=True)
    assert pythons.prune(check_mode=True) == ["abc"]
    assert pythons.prune() == ["abc"]
    assert not folder.exists()
    with pytest.raises(pythons.PythonError, match="removed the Python abc meanwhile: run this again"):
        pythons.use("abc", file, a_release(tmp_path / "shop/releases/r2"))


def test_a_python_that_does_not_run_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    broken = WORKS | {"bin/python3": b"#!/bin/sh\necho libssl.so.1: cannot open >&2\nexit 127\n"}
    file = archive(tmp_path / "python.tar.gz", broken, top="")

    with pytest.raises(
        pythons.PythonError,
        match=r"^celery_app_python does not run on this host: libssl\.so\.1: cannot open$",
    ):
        pythons.use("abc", file, a_release(tmp_path / "releases/r1"))

    assert [*folder.iterdir()] == []
    assert pythons.prune() == []
    assert not folder.exists()


def test_a_release_with_its_own_python_survives_another_distribution(folder: Path, tmp_path: Path) -> None:
    path = a_release(tmp_path / "releases/r1")
    write(path / "manifest.json", '{"interpreter": "abc"}')
    write(folder / "abc/tree/bin/python3", "")
    (path / "venv/bin").mkdir(parents=True)
    (path / "venv/lib/python3.12").mkdir(parents=True)
    (path / "venv/bin/python").symlink_to(folder / "abc/tree/bin/python3")

    assert releases.has_python(path, "3.13")
    assert current.other_python(path, Path("/usr/bin/python3.13")) == ""
    assert release.outdated(path, "abc") == ""

    (folder / "abc/tree/bin/python3").unlink()

    assert not releases.has_python(path, "3.12")
    assert "the Python abc of release r1 is missing" in current.other_python(
        path, Path("/usr/bin/python3.12")
    )
    assert release.outdated(path, "abc") == "its Python abc is missing"
