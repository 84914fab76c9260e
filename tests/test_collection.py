"""What is released: one version everywhere, and a collection that needs nothing of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent
PLUGINS = {"module": "modules", "filter": "filter", "lookup": "lookup", "callback": "callback"}
VERSIONED = (
    "VERSION",
    "galaxy.yml",
    "Dockerfile",
    "CHANGELOG.md",
    "app/autoscaler/pyproject.toml",
    "app/autoscaler/worker/pyproject.toml",
    "app/tasks/pyproject.toml",
)


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder that has nothing to do with the checkout."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))
    }
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**environment, "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives of a release, made in a copy of the files that are checked in."""
    copy = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:
        source, target = CHECKOUT / name, copy / name
        if source.exists() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    done = run(sys.executable, copy / "scripts/release", "--dry-run", folder=copy)
    assert done.returncode == 0, done.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def user(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an inventory and the installed collection."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(
        CHECKOUT / "inventories/local", folder / "inventory", ignore=shutil.ignore_patterns(".secrets")
    )
    [archive] = archives.glob("celery_fleet-platform-*.tar.gz")
    done = run(
        *(TOOLS / "ansible-galaxy", "collection", "install", "--offline", "-p", "collections", archive),
        folder=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_release_is_of_one_version(archives: Path) -> None:
    version = (CHECKOUT / "VERSION").read_text().strip()

    assert sorted(path.name for path in archives.iterdir()) == [
        f"celery_autoscaler-{version}-py3-none-any.whl",
        f"celery_autoscaler_worker-{version}-py3-none-any.whl",
        f"celery_fleet-platform-{version}.tar.gz",
        f"tasks-{version}-py3-none-any.whl",
    ]


@pytest.mark.parametrize(
    "name", ["galaxy.yml", "Dockerfile", "app/autoscaler/pyproject.toml", "CHANGELOG.md"]
)
def test_another_version_is_refused(name: str, tmp_path: Path) -> None:
    for path in (*VERSIONED, "scripts/release"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / path, tmp_path / path)
    version = (tmp_path / "VERSION").read_text().strip()
    changed = tmp_path / name
    changed.write_text(changed.read_text().replace(version, "9.9.9", 1))

    done = run(sys.executable, tmp_path / "scripts/release", "--check", folder=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith(f"release: {name}: ")


def test_the_collection_holds_what_its_users_need(archives: Path) -> None:
    [archive] = archives.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = tar.getnames()

    assert {"app/autoscaler/pyproject.toml", "app/tasks/pyproject.toml", "playbooks/site.yml"} <= set(names)
    top = {name.split("/")[0] for name in names}
    assert not top & {"tests", "molecule", "inventories", "scripts", "compose", "collections", "benchmarks"}
    assert [name for name in names if "/." in name or name.startswith(".") or "/tests/" in name] == []


def test_the_installed_collection_plays_on_an_inventory_alone(user: Path) -> None:
    done = run(TOOLS / "ansible-playbook", "-i", "inventory", "celery_fleet.platform.check", folder=user)
    assert done.returncode == 0, done.stdout + done.stderr

    listed = run(
        TOOLS / "ansible-playbook",
        "-i",
        "inventory",
        "celery_fleet.platform.site",
        "--list-tasks",
        folder=user,
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr


@pytest.mark.parametrize("kind", [*PLUGINS, "role"])
def test_ansible_doc_shows_all_that_there_is(user: Path, kind: str) -> None:
    if kind == "role":
        names = {path.parent.name for path in CHECKOUT.glob("roles/*/tasks")}
    else:
        names = {path.stem for path in (CHECKOUT / "plugins" / PLUGINS[kind]).glob("*.py")}
    wanted = [f"celery_fleet.platform.{name}" for name in sorted(names)]

    done = run(TOOLS / "ansible-doc", "--json", "--type", kind, *wanted, folder=user)

    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert sorted(shown) == wanted
    if kind != "role":
        assert [name for name in wanted if not shown[name]["doc"]["short_description"]] == []
