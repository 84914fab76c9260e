"""The role celery_app without a host: its modules, its units, its settings."""

import hashlib
import json
import os
import platform
import pwd
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.role_files import (
    CHECKOUT,
    FACTS,
    HERE,
    Place,
    evaluate,
    load_module,
    load_shared,
    refusal,
    render,
    security_score,
)

bundle = load_module("celery_bundle")
proof = load_module("celery_proof")
release = load_module("celery_release")
source = load_shared("celery_source")
environment = load_shared("celery_environment")
units = load_module("celery_units")
current = load_module("celery_current")

AWKWARD = {
    "PLAIN": "redis://app:secret@data1:6379/0",
    "SHELL": "$HOME `id` \\ \"quoted\" 'single' #; &",
    "EMPTY": "",
    "TWO_LINES": "first\nsecond",
    "CARRIAGE_RETURN": "first\r\nsecond\rthird\r\n",
    "SPACES": "  before and after\t ",
    "PERCENT": "%n %% %h",
    "LINE_ENDS_WITH_BACKSLASH": "first\\\nsecond\\",
    "LOOKS_LIKE_ONE": 'x"\nINJECTED="yes',
    "LETTERS": "größer \u00a0 \u2028 \U0001f600",
    "CONTROL": "\x01\x1b[0m\x7f",
}
INPUTS = {
    "__celery_app_target": {"python": "3.13", "glibc": "2.41", "group": "celery"},
    "celery_app_name": "proj",
    "celery_app_source": "/nowhere",
    "celery_app_environment": AWKWARD,
}


def test_the_lock_is_cut_to_what_the_host_needs() -> None:
    lock = """
# a comment
celery==5.7.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
tzdata==2026.1 ; sys_platform == 'win32' \\
    --hash=sha256:cc
backports==1.0 ; python_full_version < '3.13' --hash=sha256:dd
"""
    assert bundle.lock_for_target(lock, "lock", "3.13", "x86_64") == {
        "celery": ("5.7.0", "celery==5.7.0 --hash=sha256:aa --hash=sha256:bb")
    }
    assert bundle.lock_for_target(lock, "lock", "3.11", "x86_64")["backports"] == (
        "1.0",
        "backports==1.0 --hash=sha256:dd",
    )


def test_a_line_for_another_machine_may_be_pinned_otherwise_and_all_wrong_lines_are_named() -> None:
    lock = "pywin32>=1 ; sys_platform == 'win32'\nsix>=1 --hash=sha256:aa\nrich==1\n"

    with pytest.raises(bundle.BundleError, match=r"^lock: 'six>=1' is not pinned.*; 'rich==1' has no hash"):
        bundle.lock_for_target(lock, "lock", "3.13", "x86_64")


def test_a_lock_says_where_its_wheels_come_from(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    text = (
        "-i https://index.example/simple\n--extra-index-url=https://more.example/simple\n"
        "--find-links wheels\n--trusted-host index.example\n--only-binary :all:\n--require-hashes\n"
        "six==1.16.0 --hash=sha256:bb\n"
    )
    own, companion = write(tmp_path / "own", text), write(tmp_path / "companion", "")

    assert bundle.read_locks(own, companion, "3.13", "x86_64").options == (
        "--index-url https://index.example/simple",
        "--extra-index-url https://more.example/simple",
        f"--find-links {tmp_path}/wheels",
        "--trusted-host index.example",
    )


@pytest.mark.parametrize("line", ["-r other.txt", "-c limits.txt", "-e .", "--no-binary :all:", "--pre"])
def test_an_option_that_would_not_be_followed_is_refused(tmp_path: Path, line: str) -> None:
    own, companion = write(tmp_path / "own", f"{line}\n"), write(tmp_path / "companion", "")

    with pytest.raises(bundle.BundleError, match=rf"own: the option {line.partition(' ')[0]} has no place"):
        bundle.read_locks(own, companion, "3.13", "x86_64")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("celery>=5 --hash=sha256:aa", "not pinned"),
        ("celery==5.7.0", "no hash"),
        ("./celery --hash=sha256:aa", "no requirement"),
    ],
)
def test_a_lock_that_locks_nothing_is_refused(line: str, problem: str) -> None:
    with pytest.raises(bundle.BundleError, match=problem):
        bundle.lock_for_target(line, "lock", "3.13", "x86_64")


@pytest.fixture
def locks(tmp_path: Path) -> Any:
    """What goes into the bundle of a project that has some requirements in common with its companion."""
    (tmp_path / "own").write_text("Celery==5.7.1 --hash=sha256:aa\nsix==1.16.0 --hash=sha256:bb\n")
    (tmp_path / "companion").write_text("celery==5.7.0 --hash=sha256:cc\nrich==15.0.0 --hash=sha256:dd\n")
    return bundle.read_locks(tmp_path / "own", tmp_path / "companion", "3.13", "x86_64")


def test_the_companion_adds_what_the_project_lacks_and_overrides_nothing(locks: Any) -> None:
    assert {name: pin.version for name, pin in locks.pins.items()} == {
        "celery": "5.7.1",
        "six": "1.16.0",
        "rich": "15.0.0",
    }
    assert locks.added == {"rich"}
    assert locks.pins["celery"].line == "Celery==5.7.1 --hash=sha256:aa"


@pytest.mark.parametrize(
    ("needed", "problem"),
    [
        ("celery[redis]>=5.7,<5.8", None),
        ("six>=1.17", "the lock file pins six==1.16.0, but it needs six>=1.17"),
        ("Six!=1.16.0", "the lock file pins Six==1.16.0, but it needs Six!=1.16.0"),
        ("psutil>=5.9", "it needs psutil>=5.9, which is in no lock file"),
        ("psutil>=5.9 ; sys_platform == 'win32'", None),
        ("psutil>=5.9 ; extra == 'processes'", None),
    ],
)
def test_a_version_that_the_companion_cannot_work_with_is_refused(
    locks: Any, needed: str, problem: str | None
) -> None:
    refuse = partial(bundle.refuse_unmet, "it", [needed], locks.pins, bundle.environment_of("3.13", "x86_64"))

    if problem is None:
        refuse()
    else:
        with pytest.raises(bundle.BundleError, match=re.escape(problem)):
            refuse()


def test_what_the_companion_needs_must_work_with_the_project_as_well(tmp_path: Path, locks: Any) -> None:
    for name in ("rich-15.0.0", "celery-5.7.1"):
        with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.dist-info/METADATA", f"Name: {name}\nRequires-Dist: six>=1.17\n\nText\n")

    with pytest.raises(bundle.BundleError, match=r"six==1\.16\.0, but rich 15\.0\.0 needs six>=1\.17"):
        bundle.refuse_conflicts(tmp_path, locks, bundle.environment_of("3.13", "x86_64"))


def test_wheels_for_an_older_glibc_are_good_and_for_a_newer_one_are_not() -> None:
    platforms = bundle.platforms("x86_64", "2.36")

    assert platforms[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_17_x86_64" in platforms
    assert "manylinux2014_x86_64" in platforms
    assert "manylinux_2_37_x86_64" not in platforms


def test_the_release_id_follows_sources_and_lock_and_nothing_else(tmp_path: Path) -> None:
    def checkout(place: str, code: str = "x = 1", lock: str = "a", companion: str = "b") -> str:
        project = tmp_path / place
        for name in ("__pycache__/tasks.pyc", "my-venv/pyvenv.cfg", ".env", "db.sqlite3", ".git/HEAD"):
            write(project / name, place)
        write(project / "tasks.py", code)
        write(project / "lock", lock)
        write(tmp_path / f"{place} companion", companion)
        locks = [project / "lock", tmp_path / f"{place} companion"]
        return str(bundle.release_id([source.Source(project)], locks))

    assert checkout("here") == checkout("elsewhere")
    assert checkout("here2") != checkout("changed", code="x = 2")
    assert checkout("here3") != checkout("relocked", lock="b")
    assert checkout("here4") != checkout("companion", companion="c")


def test_the_same_input_makes_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(folder: Path, *_: object) -> None:
        (folder / "proj-1-py3-none-any.whl").write_text("wheel")
        (folder / "pip-1-py3-none-any.whl").write_text("pip")

    monkeypatch.setattr(bundle, "collect_wheels", collect)
    write(tmp_path / "modules/app.py", "x = 1")
    modules = source.Source(tmp_path / "modules", builds=False)
    for name in ("one.tar", "two.tar"):
        bundle.write_bundle(tmp_path / name, "id", TARGET, [modules], bundle.Content({}, set()))

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert release.check_hashes(tmp_path, manifest) is None
    assert set(manifest["sha256"]) == {
        "wheels/proj-1-py3-none-any.whl",
        "wheels/pip-1-py3-none-any.whl",
        "source/app.py",
    }


def test_the_parts_are_listed_as_cyclonedx_has_it() -> None:
    parts = bundle.parts_list("id", {"Foo_Bar-1.0-py3-none-any.whl": "aa", "pip-1-py3-none-any.whl": "bb"})

    assert (parts["bomFormat"], parts["specVersion"], parts["version"]) == ("CycloneDX", "1.6", 1)
    assert parts["metadata"]["component"]["version"] == "id"
    assert parts["components"][0] == {
        "type": "library",
        "bom-ref": "pkg:pypi/foo-bar@1.0",
        "name": "foo-bar",
        "version": "1.0",
        "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": "aa"}],
        "purl": "pkg:pypi/foo-bar@1.0",
    }
    assert [part["scope"] for part in parts["components"]] == ["required", "excluded"]


PYPROJECT = """
[project]
name = "proj"
version = "1"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# The least that pip can build with; it needs no network.
BACKEND = """
import zipfile, tarfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/proj-1-py3-none-any.whl", "w") as wheel:
        wheel.write("proj.py")
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\\nName: proj\\nVersion: 1\\n",
            "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"proj-1.dist-info/{name}", text)
    return "proj-1-py3-none-any.whl"
"""
BUILD = CHECKOUT / "roles/celery_app/files/build.txt"
TARGET = {"python": "3.13", "machine": "x86_64", "glibc": "2.41", "build": str(BUILD)}


def write(path: Path, text: str) -> Path:
    """Write a file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def git(*arguments: str) -> str:
    """Run git as nobody in particular."""
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    done = subprocess.run(["git", *names, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The directory of a project that pip can build."""
    write(tmp_path / "proj/pyproject.toml", PYPROJECT)
    write(tmp_path / "proj/backend.py", BACKEND)
    write(tmp_path / "proj/proj.py", "x = 1")
    return tmp_path / "proj"


@pytest.fixture
def repository(project: Path) -> Path:
    """The same as a git repository with a tag."""
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        git("-C", str(project), *command)
    return project


def find(named: Path | str, cache: Path, revision: str = "", run: str = "run") -> Any:
    """The project that a user names."""
    return source.find_source(str(named), revision, cache, run)


def pip_that_downloads_nothing(asked: list[str]) -> Any:
    """A pip that builds, and writes down what it was asked for."""
    build = bundle.pip

    def pip(kind: str, *rest: str) -> None:
        asked.append(kind)
        if kind == "wheel":
            build(kind, *rest)

    return pip


def collect(found: Any, scratch: Path, cache: Path) -> set[str]:
    """The wheels of a bundle of the project, without any requirements."""
    wheels = scratch / "wheels"
    wheels.mkdir(parents=True)
    cache.mkdir(exist_ok=True)
    params = TARGET | {"installer": str(write(scratch / "installer", "")), "cache": str(cache)}
    bundle.collect_wheels(wheels, params, [found], bundle.Content({}, set()))
    return {wheel.name for wheel in wheels.iterdir()}


def contents(found: Any, scratch: Path) -> set[str]:
    """What is in a bundle of the project, without any requirements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "pip", pip_that_downloads_nothing([]))
        wheels = collect(found, scratch, scratch / "cache")
    return wheels | {found.name_of(f) for f in found.files()}


def test_only_what_changed_is_built_and_downloaded_again(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(bundle, "pip", pip_that_downloads_nothing(asked))

    for number, line in enumerate(("", "# More.\n", "")):
        with (repository / "proj.py").open("a") as module:
            module.write(line)
        cache = tmp_path / "cache"
        wheels = collect(find(repository, cache), tmp_path / str(number), cache)
        assert wheels == {"proj-1-py3-none-any.whl"}

    assert asked == ["wheel", "download", "wheel"]


def test_what_builds_a_project_is_locked_with_its_hashes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def pip(*arguments: str) -> None:
        asked.append(arguments)
        Path(arguments[-1]).mkdir(exist_ok=True)

    monkeypatch.setattr(bundle, "pip", pip)
    write(project / "pyproject.toml", PYPROJECT.replace("requires = []", 'requires = ["hatchling>=1.20"]'))
    bundle.build_wheels(find(project, tmp_path), write(tmp_path / "cache/x", "").parent, BUILD)

    [download, build] = asked
    assert {"--require-hashes", "--only-binary=:all:"} <= set(download)
    assert "--no-index" in build
    assert [a for a in build if a.startswith("--find-links=")] == [f"--find-links={only_folder(tmp_path)}"]


def only_folder(cache: Path) -> Path:
    """The folder of the back ends in a cache."""
    # The other one is that of the wheel that was built, which is empty here, too.
    return min((cache / "cache/wheels").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def test_a_build_system_that_is_not_locked_is_refused(project: Path, tmp_path: Path) -> None:
    requires = 'requires = ["maturin>=1", "hatchling>=999"]'
    write(project / "pyproject.toml", PYPROJECT.replace("requires = []", requires))
    lock = write(tmp_path / "lock", "hatchling==1.27.0 --hash=sha256:aa\nmaturin==1.9 --hash=sha256:aa\n")

    for path, words in ((BUILD, "maturin>=1, which is in no lock file"), (lock, "needs hatchling>=999")):
        with pytest.raises(bundle.BundleError, match=f"proj cannot be built: .*{words}.*build_requirements"):
            bundle.build_wheels(find(project, tmp_path), tmp_path / "cache", path)


def test_our_own_package_is_built_with_what_is_locked() -> None:
    own = source.Source(CHECKOUT / "app/autoscaler")
    python = "{}.{}".format(*sys.version_info)
    pins = bundle.lock_for_target(BUILD.read_text(), "build.txt", python, "x86_64")

    bundle.refuse_unmet(
        "it", own.build_requirements(), pins, bundle.environment_of(python, platform.machine())
    )


def test_a_build_sees_nothing_of_the_users_environment(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "/home/me/vault")
    write(
        project / "backend.py",
        f"import json, os\n{BACKEND}\nopen('env', 'w').write(json.dumps([*os.environ]))",
    )

    bundle.build_wheels(find(project, tmp_path), write(tmp_path / "cache/x", "").parent, BUILD)

    seen = set(json.loads((project / "env").read_text()))
    assert {"PATH", "HOME"} <= seen
    assert not [name for name in seen if name.startswith("ANSIBLE")]


def test_a_directory_a_commit_an_sdist_and_a_wheel_give_the_same_wheel(
    repository: Path, tmp_path: Path
) -> None:
    wheel = "proj-1-py3-none-any.whl"
    with tarfile.open(tmp_path / "proj-1.tar.gz", "w:gz") as sdist:
        for name in ("pyproject.toml", "backend.py", "proj.py"):
            sdist.add(repository / name, f"proj-1/{name}")

    assert wheel in contents(find(repository, tmp_path), tmp_path / "1")
    assert wheel in contents(find(f"file://{repository}", tmp_path, "v1"), tmp_path / "2")
    assert wheel in contents(find(tmp_path / "proj-1.tar.gz", tmp_path), tmp_path / "3")
    assert wheel in contents(find(tmp_path / "1/wheels" / wheel, tmp_path), tmp_path / "4")


def test_a_project_that_is_not_packaged_goes_along_as_it_is(tmp_path: Path) -> None:
    for name in ("manage.py", "shop/settings.py", "shop/templates/mail.html", "pyproject.toml"):
        write(tmp_path / "shop" / name, "")
    for name in (".env", "venv/pyvenv.cfg", "venv/bin/python", "shop/__pycache__/x.pyc", "db.sqlite3"):
        write(tmp_path / "shop" / name, "")

    found = find(tmp_path / "shop", tmp_path)

    assert not found.builds
    assert contents(found, tmp_path / "1") == {
        "manage.py",
        "pyproject.toml",
        "shop/settings.py",
        "shop/templates/mail.html",
    }


def test_a_branch_is_looked_up_once_a_run_and_a_commit_needs_no_network(
    repository: Path, tmp_path: Path
) -> None:
    url = f"file://{repository}"
    first = find(url, tmp_path, "main", run="first")
    write(repository / "proj.py", "x = 2")
    git("-C", str(repository), "commit", "-qam", "two")

    assert find(url, tmp_path, "main", run="first") == first
    assert (find(url, tmp_path, "main", run="second").path / "proj.py").read_text() == "x = 2"
    assert find(url, tmp_path, "v1", run="third") == first
    repository.rename(tmp_path / "away")
    assert find(url, tmp_path, first.commit, run="fourth") == first
    with pytest.raises(source.BundleError, match=r"git: '.*' does not appear to be a git repository"):
        find(url, tmp_path, "main", run="fifth")


def test_what_cannot_be_a_project_is_refused_in_one_line(repository: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty/README", "").parent
    url = f"file://{repository}"
    for named, revision, words in (
        (tmp_path / "nowhere", "", "celery_app_source: .*/nowhere does not exist"),
        (empty, "", "is no Python project"),
        (empty / "README", "", "neither a directory nor a wheel"),
        (url, "", "celery_app_revision is needed"),
        (url, "v2", f"{url} has no revision v2"),
        (repository, "v1", "celery_app_revision is for the URL of a git repository"),
        ("https://me:secret@localhost/proj.git", "v1", "holds a password"),
    ):
        with pytest.raises(source.BundleError, match=words) as refused:
            find(named, tmp_path, revision)
        assert "\n" not in str(refused.value)
        assert "secret" not in str(refused.value)


def test_a_wheel_brings_no_lock_file(tmp_path: Path) -> None:
    wheel = source.Source(write(tmp_path / "proj-1-py3-none-any.whl", ""))

    assert wheel.find_lock(str(tmp_path / "lock")) == tmp_path / "lock"
    with pytest.raises(source.BundleError, match=r"proj-1-py3-none-any\.whl brings no lock file"):
        wheel.find_lock("requirements.txt")


@pytest.mark.parametrize(
    ("tags", "runs"),
    [
        ("py3-none-any", True),
        ("cp313-cp313-manylinux_2_17_x86_64", True),
        ("cp311-abi3-linux_x86_64", True),
        ("cp312-cp312-linux_x86_64", False),
        ("cp313-cp313-manylinux_2_42_x86_64", False),
        ("cp313-cp313-linux_aarch64", False),
    ],
)
def test_a_wheel_that_does_not_run_on_the_host_is_refused(tags: str, runs: bool) -> None:
    wheel = Path(f"proj-1-{tags}.whl")

    if runs:
        bundle.refuse_foreign(wheel, TARGET)
    else:
        with pytest.raises(source.BundleError, match="does not run on the host's Python"):
            bundle.refuse_foreign(wheel, TARGET)


@pytest.mark.parametrize(
    ("modules", "status", "words"),
    [
        ({"app.py": "import celery; app = celery.Celery()"}, 0, ""),
        ({"app/__init__.py": "", "app/celery.py": "import celery; app = celery.Celery()"}, 0, ""),
        ({}, 3, "ModuleNotFoundError: No module named 'app'"),
        ({"app.py": "x = 1"}, 3, "there is no Celery app behind `celery -A app`"),
        ({"app.py": "app = 1"}, 3, "there is no Celery app behind `celery -A app`"),
        ({"app.py": "\nimport nowhere"}, 3, "ModuleNotFoundError: No module named 'nowhere' ({}/app.py:2)"),
        (
            {"app/__init__.py": "", "app/celery.py": "import nowhere"},
            3,
            "ModuleNotFoundError: No module named 'nowhere' ({}/app/celery.py:1)",
        ),
        ({"app.py": "import os\nint(os.environ['DB_PASSWORD'])"}, 4, "'(DB_PASSWORD)' ({}/app.py:2)"),
        ({"app.py": "import os\nos.environ['SHOP_HOST']"}, 3, "KeyError: 'SHOP_HOST'"),
        (
            {
                "app.py": "import celery; app = celery.Celery(include=['app_tasks'])",
                "app_tasks.py": "import x0",
            },
            3,
            "ModuleNotFoundError: No module named 'x0' ({}/app_tasks.py:1)",
        ),
    ],
)
def test_an_app_is_imported_with_its_tasks_or_one_line_says_why_not(
    tmp_path: Path, modules: dict[str, str], status: int, words: str
) -> None:
    for name, text in modules.items():
        write(tmp_path / name, text)
    script = CHECKOUT / "roles/celery_app/files/import_app.py"

    done = subprocess.run(
        [sys.executable, "-", "app"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin", "DB_PASSWORD": "12345678x"},
        input=script.read_text(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status, done.stderr
    assert words.format(tmp_path) in done.stderr
    assert "12345678x" not in done.stderr
    assert len(done.stderr.splitlines()) == bool(status)


@pytest.mark.parametrize(
    ("end", "problem"),
    [("", ""), ("import nowhere", "No module named 'nowhere'"), ("raise OSError('no database')", "")],
)
def test_the_controller_refuses_only_what_no_host_could_import(
    project: Path, tmp_path: Path, end: str, problem: str
) -> None:
    contents(find(project, tmp_path), tmp_path / "1")
    with tarfile.open(tmp_path / "id.tar", "w") as tar:
        tar.add(tmp_path / "1/wheels", "wheels")
        tar.add(
            write(tmp_path / "app.py", f"import os, proj\nassert os.environ['PORT'] == '1'\n{end}"),
            "source/app.py",
        )
    words = "import sys\ntry:\n  import app\nexcept Exception as e:\n  print(e, file=sys.stderr)\n"
    script = write(tmp_path / "script", f"{words}  sys.exit(3 if isinstance(e, ImportError) else 4)")
    version = "{}.{}".format(*sys.version_info)

    python = proof.find_python(version)
    params = {"bundle": str(tmp_path / "id.tar"), "app": "app", "script": str(script)}

    assert python == sys.executable
    assert proof.prove(python, params, {"PORT": 1}) == problem


def test_a_version_of_python_that_the_controller_lacks_is_not_found() -> None:
    assert proof.find_python("3.99") is None


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.whl").write_text("good")
    (tmp_path / "bad.whl").write_text("damaged")
    manifest = {"sha256": {name: hashlib.sha256(b"good").hexdigest() for name in ("good.whl", "bad.whl")}}

    assert release.check_hashes(tmp_path, manifest).startswith("bad.whl is damaged")


def test_settings_mean_the_same_to_a_shell_and_to_the_module(tmp_path: Path) -> None:
    template = "etc/celery/app.env.j2"
    text = render("celery_app", [template], INPUTS)[template]
    (tmp_path / "app.env").write_bytes(text.encode())
    dump = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"

    seen_by_shell = json.loads(
        subprocess.run(
            ["sh", "-c", 'set -a; . "$1"; python3 -c "$2"', "-", str(tmp_path / "app.env"), dump],
            check=True,
            capture_output=True,
        ).stdout
    )

    assert {name: seen_by_shell[name] for name in AWKWARD} == AWKWARD
    assert environment.read_environment(tmp_path / "app.env") == AWKWARD


def unit(state: str = "active", enabled: bool = True, main_pid: int = 1) -> Any:
    """A unit as systemd sees it."""
    return units.Unit(state, enabled, main_pid)


def plan(
    seen: dict[str, Any],
    wanted: dict[str, Any],
    adopted: dict[str, list[str]] | None = None,
    running: dict[str, str] | None = None,
    release_id: str = "r1",
) -> Any:
    """What has to happen when all processes run in the same environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "running_environment", lambda _pid: running or {"CELERY_APP_RELEASE": "r1"})
        return units.plan(seen, wanted, adopted or {}, release_id)


def test_a_unit_is_restarted_when_its_process_has_other_settings(tmp_path: Path) -> None:
    settings = tmp_path / "app.env"
    settings.write_text('COLOUR="red"\n')
    running = {"COLOUR": "red", "CELERY_APP_RELEASE": "r1", "PATH": "/bin"}

    def restarts(environment: dict[str, str], release_id: str) -> list[str]:
        wanted = {"a.service": units.Wanted([str(settings)], {})}
        return list(plan({"a.service": unit()}, wanted, None, environment, release_id).restart)

    assert restarts(running, "r1") == []
    assert restarts(running, "r2") == ["a.service"]
    assert restarts({**running, "COLOUR": "blue"}, "r1") == ["a.service"]


def test_units_that_nobody_wants_are_stopped_and_missing_ones_started() -> None:
    seen = {
        "worker@old-1.service": unit(),
        "worker@off-1.service": unit("inactive", enabled=False, main_pid=0),
        "worker@dead-1.service": unit("inactive", main_pid=0),
    }

    todo = plan(seen, dict.fromkeys(["worker@dead-1.service", "worker@new-1.service"], units.Wanted([], {})))

    assert todo.stop == ["worker@old-1.service"]
    assert todo.start == ["worker@dead-1.service", "worker@new-1.service"]
    assert todo.restart == []


ADOPTED: dict[str, list[str]] = {r"worker@a-[0-9]+\.service": []}


def test_adopted_units_are_neither_started_nor_stopped_and_no_longer_start_at_boot() -> None:
    seen = {
        "worker@a-1.service": unit(),
        "worker@a-2.service": unit("inactive", main_pid=0),
        "worker@a-3.service": unit(enabled=False),
        "worker@a-4.service": unit("failed", enabled=False, main_pid=0),
        "worker@a-b-1.service": unit(),
    }

    todo = plan(seen, {}, ADOPTED)

    assert todo.disable == ["worker@a-1.service", "worker@a-2.service"]
    assert todo.stop == ["worker@a-b-1.service"]
    assert todo.start == todo.restart == []


def test_adopted_units_that_are_outdated_are_replaced_once_their_process_has_begun() -> None:
    def replaces(state: str, running: dict[str, str]) -> bool:
        return bool(plan({"worker@a-1.service": unit(state)}, {}, ADOPTED, running, "r2").replace)

    assert replaces("active", {"CELERY_APP_RELEASE": "r1"})
    assert replaces("activating", {"CELERY_APP_RELEASE": "r1"})
    assert replaces("active", {"PATH": "/bin"})
    assert not replaces("activating", {"PATH": "/bin"})
    assert not replaces("deactivating", {"CELERY_APP_RELEASE": "r1"})
    assert not replaces("active", {"CELERY_APP_RELEASE": "r2"})


def test_units_that_are_handed_back_go_on() -> None:
    seen = {"worker@a-1.service": unit(enabled=False), "worker@a-2.service": unit(enabled=False)}

    todo = plan(seen, {"worker@a-1.service": units.Wanted([], {})})

    assert todo.start == ["worker@a-1.service"]  # enabled; a start of what runs does nothing
    assert todo.stop == ["worker@a-2.service"]
    assert todo.restart == []


def test_a_unit_is_reloaded_when_its_file_differs_from_what_it_has_read(tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"

    def todo(release_id: str = "r1") -> Any:
        wanted = {"a.service": units.Wanted([], {str(file): str(copy)})}
        return plan({"a.service": unit()}, wanted, release_id=release_id)

    assert todo().reload == []  # neither is there, as in check mode on a bare host
    file.write_text("new")
    assert todo().reload == ["a.service"]
    copy.write_text("old")
    assert todo().reload == ["a.service"]
    assert (todo("r2").reload, todo("r2").restart) == ([], ["a.service"])
    copy.write_text("new")
    assert not any(todo())


@pytest.mark.parametrize("unit", ["celery-worker@.service", "celery-beat.service"])
def test_the_units_expose_at_most_2_5(unit: str, tmp_path: Path) -> None:
    template = f"etc/systemd/system/{unit}.j2"
    (tmp_path / unit).write_text(render("celery_app", [template], INPUTS)[template])

    score = security_score(tmp_path, unit)

    assert score.returncode == 0, score.stdout + score.stderr
    assert "Overall exposure level" in score.stdout


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_examples_bundle_has_what_the_autoscaler_needs(python: str) -> None:
    own, companion = (CHECKOUT / f"app/{project}/requirements.txt" for project in ("tasks", "autoscaler"))
    metadata = tomllib.loads((CHECKOUT / "app/autoscaler/pyproject.toml").read_text())["project"]

    content = bundle.read_locks(own, companion, python, "x86_64")

    assert content.added
    bundle.refuse_unmet("it", metadata["dependencies"], content.pins, bundle.environment_of(python, "x86_64"))


# --- Releases come and go ------------------------------------------------------------------------------


def test_units_with_the_same_spare_are_restarted_in_turns() -> None:
    wanted = {
        name: units.Wanted([], {}, spare)
        for name, spare in {"a-1": "a-3", "a-2": "a-3", "b-1": "b-2", "beat": ""}.items()
    }

    assert units.rounds(["a-1", "a-2", "b-1", "beat"], wanted) == (
        ["a-3", "b-2"],
        [["beat"], ["a-1", "b-1"], ["a-2"]],
    )
    assert units.rounds(["a-2"], wanted) == (["a-3"], [["a-2"]])
    assert units.rounds([], wanted) == ([], [])


def test_what_systemctl_could_not_do_is_one_line() -> None:
    said = (
        "Created symlink a → b.\nJob for w@1.service failed because a timeout was exceeded.\n"
        'See "systemctl status w@1.service" for details.\n'
    )

    assert units.reason(said) == "Job for w@1.service failed because a timeout was exceeded."
    assert units.reason("Unit w@2.service not found.\n") == "Unit w@2.service not found."
    assert units.reason("") == "it said nothing"


def test_the_workers_of_before_have_the_settings_of_their_groups() -> None:
    ran = ["celery-worker@web-1.service", "celery-worker@slow-reports-12.service"]
    cases = [INPUTS | {"__celery_app_ran": ran, "celery_app_supervised": on} for on in (False, True)]

    here, supervised = evaluate("celery_app", "__celery_app_units_before", cases)

    assert [(unit["name"], unit["environment_files"][1]) for unit in here] == [
        (ran[0], "/etc/celery/groups/web.env"),
        (ran[1], "/etc/celery/groups/slow-reports.env"),
    ]
    assert supervised == []


def test_a_unit_s_worker_has_the_name_that_celery_gives_it() -> None:
    assert units.worker_name("celery-worker@slow-reports-2.service", "web1") == "slow-reports-2@web1"


@pytest.mark.parametrize("host", ["web1", "10.0.0.5", "2001:db8::11", "Web-1.example"])
def test_a_worker_has_the_inventory_s_name_of_its_host(host: str) -> None:
    launcher = "usr/local/sbin/celery-launch.j2"

    lines = render("celery_app", [launcher], INPUTS, Place(host, {host: {}}))[launcher]

    assert f'worker --hostname "$2@{host}" ' in lines
    assert "%h" not in lines


def test_the_definition_of_a_host_changes_with_its_name() -> None:
    [one], [same], [other] = (
        evaluate("celery_app", "__celery_app_definition", [INPUTS], Place(host, {host: {}}))
        for host in ("web1", "web1", "web2")
    )

    assert one == same != other


def test_a_name_that_no_worker_can_have_is_refused() -> None:
    [errors] = evaluate("celery_app", "__celery_app_errors", [INPUTS], Place("web@1", {"web@1": {}}))

    assert errors == [
        "inventory name 'web@1': a host of the app is named in its workers' names (allowed: letters, digits, "
        "'_', '.', ':' and '-')"
    ]


def test_a_worker_that_runs_under_another_name_of_its_host_is_found() -> None:
    command = [sys.executable, "-c", "input(1)", "worker", "--hostname", "web-1@cloned"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # Its command line is there for certain once it says something.
        assert process.stdout is not None
        process.stdout.read(1)
        seen = {"celery-worker@web-1.service": unit(main_pid=process.pid), "gone": unit(main_pid=0)}
        names = list(seen)

        assert units.running_name(process.pid) == "web-1@cloned"
        assert units.renamed("host1", names, seen)
        assert not units.renamed("cloned", names, seen)
        assert not units.renamed("host1", ["gone", "unknown"], seen)
        process.communicate(b"\n")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Where five releases are installed, r1 the oldest."""
    for number in range(1, 6):
        path = tmp_path / f"releases/r{number}"
        path.mkdir(parents=True)
        os.utime(path, (number, number))
    return tmp_path


def test_a_link_is_replaced_and_never_missing(installed: Path) -> None:
    link = installed / "current"

    current.point(link, "r1")
    current.point(link, "r2")

    assert current.target(link) == "r2"
    assert link.resolve() == installed / "releases/r2"
    assert current.target(installed / "previous") == ""


def test_the_oldest_releases_go_but_never_one_that_is_needed(installed: Path) -> None:
    releases = installed / "releases"

    assert [path.name for path in current.superfluous(releases, 3, {"r5"})] == ["r1", "r2"]
    assert [path.name for path in current.superfluous(releases, 1, {"r1", "r3"})] == ["r2", "r4", "r5"]
    assert current.superfluous(releases, 5, set()) == []
    assert current.superfluous(installed / "none", 1, set()) == []


def test_nothing_goes_behind_migrations_that_cannot_be_taken_back(installed: Path) -> None:
    releases = installed / "releases"
    (releases / "r3" / current.IRREVERSIBLE).touch()
    os.utime(releases / "r3", (3, 3))

    assert current.barrier(releases, "r2") == "r3"
    assert current.barrier(releases, "r3") == current.barrier(releases, "r4") == ""
    assert current.barrier(releases, "not yet there") == ""


def test_only_processes_of_the_app_s_user_keep_a_release() -> None:
    # The value is bytes that are no UTF-8, as any user may set it.
    process = subprocess.Popen(
        ["sleep", "600"], env={"CELERY_APP_RELEASE": os.fsdecode(b"r\xff")}, start_new_session=True
    )
    try:
        me = pwd.getpwuid(os.getuid()).pw_name
        assert "r\ufffd" in list(current.running(me))
        other = next(user.pw_name for user in pwd.getpwall() if user.pw_uid != os.getuid())
        assert "r\ufffd" not in list(current.running(other))
        assert list(current.running("nobody-of-this-name")) == []
    finally:
        process.kill()
        process.wait()


def test_root_runs_no_program_of_the_release(tmp_path: Path) -> None:
    script = tmp_path / "celery-app"
    name = "usr/local/sbin/celery-app.j2"
    script.write_text(render("celery_app", [name], INPUTS)[name])
    programs = tmp_path / "release/venv/bin"
    programs.mkdir(parents=True)
    for program in ("systemd-run", "env", "test", "["):
        (programs / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (programs / program).chmod(0o755)

    # It fails where no systemd runs; what counts is whose program was tried.
    subprocess.run(
        ["sh", script, "-r", tmp_path / "release", "true"], check=False, stdin=subprocess.DEVNULL, timeout=60
    )

    assert not (tmp_path / "ran").exists()


def test_compiling_a_project_executes_nothing_of_its_dependencies(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    commands: list[list[str]] = []

    class Module:
        params: ClassVar = {"bundle": str(tmp_path / "bundle.tar")}

        def run_command(self, command: list[str], **_: Any) -> None:
            commands.append(command)
            if command[0] == "tar":
                for name in ("wheels/pip-1-py3-none-any.whl", "source/app.py", "requirements.txt"):
                    write(folder / "unpacked" / name, "")
                write(folder / "unpacked/manifest.json", '{"sha256": {}, "python": "3.11"}')
            if "venv" in command:
                write(folder / "venv-3.11/lib/python3.11/site-packages/x.pth", "")

    release.install(Module(), folder)

    compiling = next(command for command in commands if "compileall" in command)
    assert compiling[1 : compiling.index("-m")] == ["-I", "-S"]


def test_the_room_on_a_disk_is_what_df_says() -> None:
    case = {"__celery_app_disk": {"stdout_lines": ["  Avail", "  123MB"]}}
    assert evaluate("celery_app", "__celery_app_room", [case], HERE) == ["123"]


# --- Refused before anything is written ----------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"celery_app_root": "/opt/my app"},
        "celery_app_root: is '/opt/my app'; allowed: a whole path of letters",
    ),
    ({"celery_app_root": "opt/app"}, "celery_app_root: is 'opt/app'"),
    ({"celery_app_root": "/opt/%n"}, "celery_app_root: is '/opt/%n'"),
    ({"celery_app_user": "root"}, "celery_app_user: is 'root'; allowed: lower case letters"),
    ({"celery_app_user": "my user"}, "celery_app_user: is 'my user'"),
    ({"celery_app_name": "proj app"}, "celery_app_name: is 'proj app'; allowed: a module"),
    ({"celery_app_environment": {"EMPTY": None}}, "celery_app_environment: EMPTY: is empty (null)"),
    ({"celery_app_environment": {"LIST": [1]}}, "celery_app_environment: LIST: is a list"),
    ({"celery_app_environment": {"MY-NAME": "x"}}, "celery_app_environment: MY-NAME: 'MY-NAME' cannot be"),
    ({"celery_app_environment": {"NUL": "a\0b"}}, "celery_app_environment: NUL: holds a character"),
    ({"celery_app_migrate_environment": {"NONE": None}}, "celery_app_migrate_environment: NONE: is empty"),
]
RIGHT: list[dict[str, Any]] = [
    {"celery_app_environment": AWKWARD},
    {"celery_app_environment": {"NUMBER": 1, "PART": 0.5, "EMPTY": ""}},
    {
        "celery_app_root": "/srv/celery-2.0/",
        "celery_app_user": "_deploy",
        "celery_app_name": "proj.celery:app",
    },
]


def refused(inputs: dict[str, Any]) -> list[str]:
    """What the role refuses in its inputs."""
    seen = inventory({"worker1": INPUTS | inputs}, {"workers": ["worker1"]}, as_written)
    found = of_role("celery_app", seen.hosts["worker1"], seen)
    return [f"{finding.variable}: {finding.text}" for finding in found]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_what_cannot_work_is_named_in_one_line(inputs: dict[str, Any], message: str) -> None:
    (line,) = refused(inputs)

    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("inputs", RIGHT)
def test_what_can_work_passes(inputs: dict[str, Any]) -> None:
    assert refused(inputs) == []


def test_the_role_itself_refuses_wrong_input_and_another_distribution() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    other = {**FACTS, "distribution_major_version": "11", "distribution_version": "11.9"}

    assert refusal("celery_app", INPUTS | {"celery_app_root": "/my app", "ansible_facts": other}) == (
        "the host runs Debian 11.9; supported: Debian 12, 13; "
        "celery_app_root: is '/my app'; allowed: a whole path of letters, digits and . _ + @ -"
    )
