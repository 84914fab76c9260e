"""Projects of every shape become bundles that install and run, or one line says all that is missing."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.local_index import HOST, LOGIN, Index, pinned, serve_index
from support.made_up_projects import write
from support.role_files import CHECKOUT, load_module, load_shared

bundle = load_module("celery_bundle")
proof = load_module("celery_proof")
celery_lock = load_shared("celery_lock")
host = load_shared("celery_host")
tools = load_shared("celery_tools")
PROJECTS = CHECKOUT / "tests/projects"
TOOLS = CHECKOUT / "roles/celery_app/files/tools"


@pytest.fixture(scope="session")
def lock_tools() -> Path:
    """The tools that read lock files, kept in the checkout: they are as large as all other packages."""
    cache = CHECKOUT / ".cache/lock-tools"
    cache.mkdir(parents=True, exist_ok=True)
    with bundle.one_builder(cache):
        for name in ("uv", "poetry"):
            tools.environment_of_tools(TOOLS / f"{name}.txt", cache)
    return cache / "tools"


@pytest.fixture(scope="module")
def cache(lock_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a controller that makes one bundle after the other."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "tools").symlink_to(lock_tools)
    return folder


@pytest.fixture
def index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index of small packages, which pip asks instead of all others, once its tools are there."""
    assert cache.is_dir()
    with serve_index() as served:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def made(index: Index, cache: Path, tmp_path: Path) -> Any:
    """Make a bundle of a project of tests/projects/ for this machine; return its path."""
    assert index.packages
    empty = write(tmp_path / "empty.txt", "")
    nothing: dict[str, Any] = {
        "extras": [],
        "dependency_groups": [],
        "overrides": [],
        "sdists": [],
        "sdists_image": "",
        "sdists_packages": [],
        "indexes": [],
    }

    def make(project: str | Path, requirements: str = "requirements.txt", **options: Any) -> Path:
        params = {
            "source": str(PROJECTS / project),
            "requirements": requirements,
            "wheels": None,
            **nothing,
            "revision": "",
            "run": "",
            "subdirectory": "",
            "build_requirements": "",
            "tools": str(TOOLS),
            "interpreter": None,
            "worker_package": None,
            "installer": str(empty),
            "build": str(empty),
            "cache": str(cache),
            **host.this_machine()._asdict(),
        }
        return Path(bundle.make(params | options, False)["path"])

    return make


def answer(archive: Path, folder: Path, module: str) -> str:
    """What a task of the app returns, in a virtual environment with what is in the bundle."""
    folder.mkdir()
    python = proof.install(sys.executable, archive, folder)
    done = subprocess.run(
        [str(python), "-c", f"import {module}; print({module}.answer())"],
        env={"PATH": f"{python.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("lock", "options", "expected"),
    [
        ("uv_overrides/uv.lock", {}, "two printed False"),
        ("uv_overrides/uv.lock", {"extras": ["color"], "dependency_groups": ["console"]}, "two printed True"),
        (
            "poetry_groups/poetry.lock",
            {"extras": ["color"], "dependency_groups": ["console"]},
            "one printed True",
        ),
        ("pylock/pylock.toml", {}, "two"),
        ("pipfile/Pipfile.lock", {"dependency_groups": ["console"]}, "one printed True"),
        ("source_only/requirements.txt", {"sdists": ["Envelopes"]}, "C5"),
    ],
)
def test_a_project_runs_with_what_its_lock_file_says(
    made: Any, tmp_path: Path, lock: str, options: Any, expected: str
) -> None:
    project, _, name = lock.partition("/")

    assert answer(made(project, name, **options), tmp_path / "installed", "app") == expected


def test_a_src_layout_runs_with_its_data(made: Any, tmp_path: Path) -> None:
    assert answer(made("src_layout"), tmp_path / "installed", "postage.tasks") == "two 95"


def test_a_package_of_an_index_is_a_project(made: Any, tmp_path: Path) -> None:
    lock = write(tmp_path / "lock.txt", pinned("stamps==1.0", "letters==1.0", "printer==1.0"))

    archive = made(tmp_path / "unused", source="stamps==1.0", requirements=str(lock))

    with tarfile.open(archive) as tar:
        assert not [name for name in tar.getnames() if name.startswith("source/")]
        assert "wheels/stamps-1.0-py3-none-any.whl" in tar.getnames()


def test_all_that_is_missing_is_named_at_once_with_what_to_do(made: Any, tmp_path: Path) -> None:
    unknown = f"pigments==3.0 --hash=sha256:{'a' * 64}\nletters==7.0 --hash=sha256:{'a' * 64}\n"
    names = pinned("stamps==1.0", "envelopes==1.0", "pigeons==1.0", "printer==1.0")
    write(tmp_path / "proj/app.py", "")
    write(tmp_path / "proj/requirements.txt", names + unknown)

    with pytest.raises(bundle.BundleError) as refused:
        made(tmp_path / "proj")

    python = host.this_machine().words()
    nowhere = "is in no index that pip asks: name its index in celery_app_indexes, or put its wheel into "
    assert str(refused.value).split("; ") == [
        "envelopes 1.0 exists as source only: list it in celery_app_sdists, or put its wheel into "
        "celery_app_wheels",
        f"pigeons 1.0 has no wheel for {python}: list it in celery_app_sdists to build it, or put its wheel "
        "into celery_app_wheels",
        f"pigments 3.0 {nowhere}celery_app_wheels",
        f"letters 7.0 {nowhere}celery_app_wheels",
    ]


def test_a_lock_file_that_names_no_file_for_the_host_is_refused_like_others(
    made: Any, tmp_path: Path
) -> None:
    lock = (PROJECTS / "pylock/pylock.toml").read_text().replace("marker = \"sys_platform == 'win32'\"\n", "")
    commit = '[[packages]]\nname = "doves"\nvcs = {type = "git", url = "file:///x", commit-id = "aa"}\n'
    write(tmp_path / "proj/pylock.toml", f"{lock}\n{commit}")
    write(tmp_path / "proj/app.py", "")

    with pytest.raises(bundle.BundleError) as refused:
        made(tmp_path / "proj", "pylock.toml")

    assert str(refused.value).split("; ") == [
        "pigeons 1.0 has no wheel for the host: put one into celery_app_wheels",
        "doves is a commit of a repository: put its wheel into celery_app_wheels",
    ]


def test_what_cannot_be_built_names_the_back_end_that_is_not_locked(made: Any, tmp_path: Path) -> None:
    write(tmp_path / "proj/app.py", "")
    write(tmp_path / "proj/requirements.txt", pinned("sealing==1.0"))

    with pytest.raises(bundle.BundleError, match=r"sealing 1\.0 cannot be built: .*'waxworks>=2'") as refused:
        made(tmp_path / "proj", sdists=["sealing"])

    assert "pin it with its hashes in celery_app_build_requirements" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_requirement_is_built_in_an_image_of_the_hosts_distribution(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "proj/app.py", "")
    write(tmp_path / "proj/requirements.txt", pinned("folders==1.0"))
    options = {"sdists": ["folders"], "python": "3.13", "glibc": "2.41"}

    with pytest.raises(bundle.BundleError, match=r"folders 1\.0 cannot be built: .*/build/sdist\.txt"):
        made(tmp_path / "proj", **options)
    archive = made(tmp_path / "proj", **options, sdists_image="celery-fleet/used-host:trixie")
    with tarfile.open(archive) as tar:
        assert "wheels/folders-1.0-py3-none-any.whl" in tar.getnames()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bundle.BundleError, match="neither docker nor podman is installed"):
        made(tmp_path / "proj", **options, cache=str(tmp_path), sdists_image="debian:13")


def test_a_requirement_is_built_in_the_image_with_the_python_that_the_project_brings(
    made: Any, tmp_path: Path
) -> None:
    write(tmp_path / "proj/app.py", "")
    write(tmp_path / "proj/requirements.txt", pinned("bindings==1.0"))
    packed = tmp_path / "python.tar.gz"
    files = ("--exclude=sitecustomize.py", "bin/python3", "bin/python3.11", "lib/python3.11")
    image = ("celery-fleet/used-host:bookworm", "tar", "-C", "/usr", "-cz", *files)
    with packed.open("wb") as opened:
        subprocess.run(["docker", "run", "--rm", *image], stdout=opened, check=True)

    archive = made(
        tmp_path / "proj",
        sdists=["bindings"],
        python="3.13",
        glibc="2.41",
        sdists_image="celery-fleet/used-host:trixie",
        interpreter=str(packed),
        interpreter_sha256="",
    )

    with tarfile.open(archive) as tar:
        assert "wheels/bindings-1.0-py3-none-any.whl" in tar.getnames()


def test_where_a_requirement_is_built_makes_another_release() -> None:
    def further(sdists: set[str], *image: Any) -> str:
        container = bundle.Container(*image) if image else None
        wanted = bundle.Wanted(host.this_machine(), (), (), frozenset(sdists))
        supplies = SimpleNamespace(folder=None, container=container, interpreter=None)
        return str(
            bundle.further_of(wanted, SimpleNamespace(lock=SimpleNamespace(pins={}), supplies=supplies))
        )

    found = [
        further({"ldap"}),
        further({"ldap"}, "debian:12"),
        further({"ldap"}, "debian:13"),
        further({"ldap"}, "debian:13", ("libldap-dev",)),
    ]

    assert len(set(found)) == len(found)
    assert further(set(), "debian:13") == further(set()) == ""


def test_a_wheel_of_the_user_is_taken_instead_of_what_is_missing(made: Any, tmp_path: Path) -> None:
    other = made("source_only", sdists=["envelopes"])
    with tarfile.open(other) as tar:
        tar.extractall(tmp_path / "other", filter="data")

    archive = made("source_only", wheels=str(tmp_path / "other/wheels"))

    assert archive != other
    assert answer(archive, tmp_path / "installed", "app") == "C5"


def test_a_requirement_that_another_does_not_allow_is_refused_unless_it_is_meant(
    made: Any, tmp_path: Path
) -> None:
    write(tmp_path / "proj/app.py", "")
    write(tmp_path / "proj/requirements.txt", pinned("stamps==1.0", "letters==2.0"))

    with pytest.raises(bundle.BundleError, match=r"pins letters==2\.0, but stamps 1\.0 needs letters<2"):
        made(tmp_path / "proj")
    assert made(tmp_path / "proj", overrides=["Letters"]).exists()


def test_the_password_of_an_index_is_nowhere(
    made: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "proj/app.py", "import oldink\n\n\ndef answer():\n    return oldink.COLOR\n")
    write(tmp_path / "proj/requirements.txt", pinned("oldink==1.0"))
    asked: list[str] = []
    run = subprocess.run

    def spy(command: Any, *rest: Any, **how: Any) -> Any:
        asked.extend(command)
        return run(command, *rest, **how)

    monkeypatch.setattr(tools.subprocess, "run", spy)
    private = {"url": f"http://{HOST}/private/simple", "username": LOGIN[0], "password": "not the password"}
    with pytest.raises(bundle.BundleError, match=r"/private/simple/oldink/ refuses the user or") as refused:
        made(tmp_path / "proj", indexes=[private])
    archive = made(tmp_path / "proj", indexes=[private | {"password": LOGIN[1]}])
    monkeypatch.undo()

    assert asked
    kept = [path for path in cache.rglob("*") if path.is_file() and "tools" not in path.parts]
    said = [*asked, str(refused.value), *(path.read_bytes().decode(errors="replace") for path in kept)]
    for secret in (LOGIN[1], "s3cret%2Fof%20the%20index", "not the password"):
        assert not [text for text in said if secret in text]
    assert answer(archive, tmp_path / "installed", "app") == "black"


def test_an_index_that_is_away_is_named_once(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    write(tmp_path / "proj/app.py", "")
    write(tmp_path / "proj/requirements.txt", pinned("printer==1.0", "ink==1.0"))

    with pytest.raises(
        bundle.BundleError,
        match=r"^the index http://127\.0\.0\.1:9/.* cannot be asked: Connection refused \(",
    ) as said:
        made(tmp_path / "proj")

    assert "\n" not in str(said.value)


def test_a_failure_is_one_line_and_the_rest_is_in_a_file_that_it_names(
    made: Any, cache: Path, tmp_path: Path
) -> None:
    project = tmp_path / "poetry"
    shutil.copytree(PROJECTS / "poetry_groups", project)
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("(>=1)", "(>=1,<2)"))

    with pytest.raises(bundle.BundleError) as refused:
        made(project, "poetry.lock")

    said = str(refused.value)
    log = cache / "failed.log"
    assert "pyproject.toml changed significantly" in said
    assert said.endswith(f"(the whole output is in {log})")
    assert "\n" not in said
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_lock_file_that_is_missing_is_said_with_the_one_that_is_there(made: Any) -> None:
    with pytest.raises(
        bundle.BundleError, match=r"requirements\.txt is missing \(celery_app_requirements: uv"
    ):
        made("uv_overrides")
    with pytest.raises(bundle.BundleError, match=r"celery_app_extras: requirements\.txt holds neither"):
        made("source_only", extras=["color"])
    with pytest.raises(bundle.BundleError, match=r"Pipfile\.lock has no category docs"):
        made("pipfile", "Pipfile.lock", dependency_groups=["docs"])


@pytest.mark.usefixtures("index")
def test_compose_installs_the_same(cache: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    project = PROJECTS / "uv_overrides"
    arguments = [project, project / "uv.lock", tmp_path / "venv"]
    own = {
        "BUNDLE_CACHE": str(cache),
        "PYTHONPATH": str(CHECKOUT / "collections"),
        "REQUIREMENTS_EXTRAS": "color",
    }

    program: list[str | Path] = [sys.executable, CHECKOUT / "compose/install-project", *arguments]
    subprocess.run(program, env=os.environ | own, check=True)

    python = tmp_path / "venv/bin/python"
    done = subprocess.run(
        [python, "-c", "import app; print(app.answer())"],
        cwd=project,
        env={"PATH": f"{python.parent}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "two printed True\n"


def test_of_two_lines_of_a_name_the_one_for_the_host_counts(tmp_path: Path) -> None:
    lines = [line.strip() for line in pinned("letters==1.0", "letters==2.0").splitlines()]
    for number, operator in enumerate(("<", ">=")):
        lines[number] = lines[number].replace(" ", f" ; python_version {operator} '3.12' ", 1)
    path = write(tmp_path / "requirements.txt", "\n".join(lines))

    found = {
        python: celery_lock.read_requirements(path, host.Target(python, "x86_64", "2.36").environment()).pins
        for python in ("3.11", "3.13")
    }

    assert {python: pins["letters"].version for python, pins in found.items()} == {
        "3.11": "1.0",
        "3.13": "2.0",
    }
