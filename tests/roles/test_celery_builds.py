"""Bundles of an application: what they are made from, what is built again, what is refused."""

import json
import tarfile
import tomllib
from pathlib import Path

import pytest
from support.made_up_projects import (
    BACKEND,
    BUILD,
    PYPROJECT,
    collect,
    content_of,
    contents,
    find,
    git,
    pip_that_downloads_nothing,
    write,
)
from support.role_files import (
    CHECKOUT,
    load_module,
    load_shared,
)

bundle = load_module("celery_bundle")
content = load_shared("celery_content")
host = load_shared("celery_host")
lock = load_shared("celery_lock")
wheels = load_shared("celery_wheels")
release = load_module("celery_release")
source = load_shared("celery_source")


def test_the_release_id_follows_sources_and_lock_and_nothing_else(tmp_path: Path) -> None:
    def checkout(place: str, code: str = "x = 1", lock: str = "a", beside: str = "b") -> str:
        project = tmp_path / place
        for name in ("__pycache__/tasks.pyc", "my-venv/pyvenv.cfg", ".env", "db.sqlite3", ".git/HEAD"):
            write(project / name, place)
        write(project / "tasks.py", code)
        write(project / "lock", lock)
        part = write(tmp_path / f"{place} parts/part/module.py", beside).parent
        worker_package = write(tmp_path / f"{place} parts/worker_package/pyproject.toml", "").parent
        sources = [source.Source(project), source.Source(worker_package, parts=(part,))]
        return str(content.release_id(sources, project / "lock"))

    assert checkout("here") == checkout("elsewhere")
    assert checkout("here2") != checkout("changed", code="x = 2")
    assert checkout("here3") != checkout("relocked", lock="b")
    assert checkout("here4") != checkout("worker_package", beside="c")


def test_the_same_input_makes_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(folder: Path, _content: object) -> None:
        (folder / "proj-1-py3-none-any.whl").write_text("wheel")
        (folder / "pip-1-py3-none-any.whl").write_text("pip")

    monkeypatch.setattr(bundle, "collect_wheels", collect)
    write(tmp_path / "modules/app.py", "x = 1")
    modules = source.Source(tmp_path / "modules", builds=False)
    for name in ("one.tar", "two.tar"):
        bundle.write_bundle(tmp_path / name, "id", content_of(modules, tmp_path))

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


def test_only_what_changed_is_built_and_downloaded_again(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(wheels, "pip", pip_that_downloads_nothing(asked))

    for number, line in enumerate(("", "# More.\n", "")):
        with (repository / "proj.py").open("a") as module:
            module.write(line)
        cache = tmp_path / "cache"
        built = collect(find(repository, cache), tmp_path / str(number), cache)
        assert built == {"proj-1-py3-none-any.whl"}

    assert asked == ["wheel", "download", "wheel"]


def test_what_builds_a_project_is_locked_with_its_hashes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def pip(*arguments: str, **_: object) -> None:
        asked.append(arguments)
        Path(arguments[-1]).mkdir(exist_ok=True)

    monkeypatch.setattr(wheels, "pip", pip)
    write(project / "pyproject.toml", PYPROJECT.replace("requires = []", 'requires = ["hatchling>=1.20"]'))
    build(project, tmp_path)

    [download, built] = asked
    assert {"--require-hashes", "--only-binary=:all:"} <= set(download)
    assert "--no-index" in built
    assert [a for a in built if a.startswith("--find-links=")] == [f"--find-links={only_folder(tmp_path)}"]


def build(project: Path, tmp_path: Path, back_ends: Path = BUILD) -> None:
    """Build a project with what a lock file names."""
    cache = write(tmp_path / "cache/x", "").parent
    wheels.build_wheels(find(project, tmp_path), "key", wheels.Supplies(cache, back_ends))


def only_folder(cache: Path) -> Path:
    """The folder of the back ends in a cache."""
    # The other one is that of the wheel that was built, which is empty here, too.
    return min((cache / "cache/wheels").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def test_a_build_system_that_is_not_locked_is_refused(project: Path, tmp_path: Path) -> None:
    requires = 'requires = ["maturin>=1", "hatchling>=999"]'
    write(project / "pyproject.toml", PYPROJECT.replace("requires = []", requires))
    own = write(tmp_path / "lock", "hatchling==1.27.0 --hash=sha256:aa\nmaturin==1.9 --hash=sha256:aa\n")

    for path, words in ((BUILD, "maturin>=1, which is in no lock file"), (own, "needs hatchling>=999")):
        with pytest.raises(bundle.BundleError, match=f"proj cannot be built: .*{words}.*build_requirements"):
            build(project, tmp_path, path)


def test_our_own_package_is_built_with_what_is_locked() -> None:
    own = source.Source(CHECKOUT / "app/autoscaler")
    here = host.this_machine()
    pins = wheels.read_back_ends(BUILD, here).pins

    lock.refuse_unmet("it", own.build_requirements(), pins, here.environment())


def test_a_build_sees_nothing_of_the_users_environment(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "/home/me/vault")
    write(
        project / "backend.py",
        f"import json, os\n{BACKEND}\nopen('env', 'w').write(json.dumps([*os.environ]))",
    )

    build(project, tmp_path)

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


def test_a_src_layout_without_a_build_system_is_not_guessed_one(tmp_path: Path) -> None:
    write(tmp_path / "docs/pyproject.toml", '[project]\nname = "docs"\nversion = "1"\n')
    files = {"src/docs/tasks.py", "src/docs/locale/de.po", "src/manage.py", "src/docs/static/dist/app.js"}
    for name in files:
        write(tmp_path / "docs" / name, "")

    found = find(tmp_path / "docs", tmp_path)

    assert found.import_paths() == ["src", "."]
    assert {found.name_of(path) for path in found.files()} == files | {"pyproject.toml"}


def test_a_build_product_is_known_by_what_it_holds_and_not_by_its_name(tmp_path: Path) -> None:
    kept = {"app.py", "build/__init__.py", "dist/index.html", "shop/build/step.py", "shop/static/dist/x.js"}
    for name in kept:
        write(tmp_path / "kept" / name, "")
    for name in ("app.py", "build/lib/app.py", "dist/app-1.tar.gz", "dist/app-1-py3-none-any.whl"):
        write(tmp_path / "left" / name, "")

    kept_in, left_in = (source.Source(tmp_path / name, builds=False) for name in ("kept", "left"))

    assert {kept_in.name_of(path) for path in kept_in.files()} == kept
    assert {left_in.name_of(path) for path in left_in.files()} == {"app.py"}


def test_a_project_may_be_in_a_folder_of_its_repository(repository: Path, tmp_path: Path) -> None:
    write(repository / "services/mail/app.py", "")
    git("-C", str(repository), "add", ".")
    git("-C", str(repository), "commit", "-qm", "two")
    url = f"file://{repository}"

    named = source.find_source(url, "main", tmp_path, "run", "services/mail")
    written = find(f"git+{url}#subdirectory=services/mail", tmp_path, "main")

    assert named == written
    assert [path.name for path in named.files()] == ["app.py"]
    for folder in ("services/web", "../other"):
        with pytest.raises(source.BundleError, match=r"celery_app_subdirectory: .* has no folder"):
            source.find_source(url, "main", tmp_path, "run", folder)


def test_a_package_of_an_index_is_what_the_lock_file_pins(tmp_path: Path) -> None:
    found = find("Shop[mail]==1.0", tmp_path)
    pins = {"shop": lock.Locked("1.0", "shop==1.0 --hash=sha256:aa")}

    roots = [*content.asked_by_project(content_of(found, tmp_path, lock=lock.Lock(pins)))]

    assert roots[-1].requirements == ("Shop[mail]==1.0",)
    assert [*found.files()] == found.import_paths() == []
    with pytest.raises(source.BundleError, match=r"does not pin Shop\[mail\]==1\.0: lock it too"):
        [*content.asked_by_project(content_of(found, tmp_path))]
    with pytest.raises(source.BundleError, match="names no single version"):
        find("shop>=1", tmp_path)


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


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_a_release_of_the_example_holds_the_worker_side_alone(python: str, tmp_path: Path) -> None:
    target = host.Target(python, "x86_64", "2.36")
    own = lock.read_requirements(CHECKOUT / "app/tasks/requirements.txt", target.environment())
    project = source.Source(CHECKOUT / "app/tasks")
    made = content_of(project, tmp_path, lock=own)._replace(target=target)

    name, worker_package = bundle.find_worker_package(CHECKOUT / "app/autoscaler/worker", made)
    assert name == "celery-autoscaler-worker"

    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [modules] = [each["source_modules"] for each in contracts if "nothing but Celery" in each["name"]]
    parts = {part.name.removesuffix(".py") for part in worker_package.parts}
    assert parts == {name.partition(".")[2] for name in modules} | {"__init__", "py.typed"}
    assert {"pyproject.toml", "../src/celery_autoscaler/launch.py"} <= set(
        map(worker_package.name_of, worker_package.files())
    )


def test_a_fault_in_the_environment_of_the_supervisor_is_told_as_such(tmp_path: Path) -> None:
    files = dict.fromkeys(("installer", "build", "tools", "cache", "supervisor_package"), str(tmp_path))

    with pytest.raises(source.BundleError, match=r"^the environment of the supervisor: "):
        bundle.make_supervisor(files | host.Target("3.13", "x86_64", "2.36")._asdict(), False)


def test_the_environment_of_the_supervisor_is_locked() -> None:
    metadata = tomllib.loads((CHECKOUT / "app/autoscaler/pyproject.toml").read_text())["project"]
    environment = host.Target("3.13", "x86_64", "2.36").environment()
    own = lock.read_requirements(CHECKOUT / "app/autoscaler/requirements.txt", environment)

    lock.refuse_unmet("it", metadata["dependencies"], own.pins, environment)
