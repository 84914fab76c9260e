"""Nothing that a project keeps to itself gets into an image, and nothing unpinned builds or tests one."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml
from docker.models.images import Image
from support.role_files import CHECKOUT, load_shared

source = load_shared("celery_source")

SECRET = b"planted-0d9f"
# The files beside the code of a project on a desk.
PLANTED = (
    ".env", ".env.local", ".envrc", ".git/config", ".git/objects/ab/cdef", ".secrets/password", ".netrc",
    ".pypirc", ".ssh/id_ed25519", ".aws/credentials", "id_rsa", "server.key", "vault.yml", "db.sqlite3",
    ".idea/workspace.xml", ".venv/bin/python", "src/.env", "src/deep/er/.env.production", "src/deep/er/.git",
)  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """An image of all that a build is given, of a checkout with planted files."""
    context = tmp_path_factory.mktemp("checkout")
    for folder in ("app", "compose", "plugins/module_utils", "roles/celery_app/files"):
        shutil.copytree(CHECKOUT / folder, context / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / ".dockerignore", context)
    for project in (".", "app", "app/tasks", "app/autoscaler", "compose"):
        for name in PLANTED:
            path = context / project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(SECRET)
    for name in (".cache/ca/ca-bundle.crt", "scripts/apt-install"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    (context / "Dockerfile").write_text('FROM scratch\nCOPY . /context/\nCMD ["none"]\n')
    client = docker.from_env()
    built, _ = client.images.build(path=str(context), rm=True, nocache=True)
    try:
        yield built
    finally:
        client.images.remove(str(built.id))
        client.close()


@pytest.fixture(scope="module")
def layers(image: Image) -> dict[str, bytes]:
    """The files in all layers of that image."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(image.save()))) as saved:
        for member in saved.getmembers():
            content = saved.extractfile(member)
            if content is None or not member.name.endswith("layer.tar"):
                continue
            with tarfile.open(fileobj=content) as layer:
                for file in layer.getmembers():
                    data = layer.extractfile(file)
                    if data is not None:
                        found[file.name.removeprefix("context/")] = data.read()
    return found


def test_no_layer_holds_a_secret_or_history(layers: dict[str, bytes]) -> None:
    assert not [name for name, content in layers.items() if SECRET in content]


def test_layers_hold_all_that_the_images_are_made_of(layers: dict[str, bytes]) -> None:
    wanted = {
        "scripts/apt-install",
        ".cache/ca/ca-bundle.crt",
        "compose/with-secrets",
        "compose/fleet",
        "compose/install-project",
    }
    wanted |= {str(p.relative_to(CHECKOUT)) for p in (CHECKOUT / "plugins/module_utils").glob("celery_*.py")}
    wanted |= {str(p.relative_to(CHECKOUT)) for p in (CHECKOUT / "roles/celery_app/files").rglob("*.txt")}
    for project in ("app/tasks", "app/autoscaler"):
        for path in (CHECKOUT / project).rglob("*"):
            if path.is_file() and not any(is_left_behind(part) for part in path.relative_to(CHECKOUT).parts):
                wanted.add(str(path.relative_to(CHECKOUT)))
    assert wanted <= layers.keys()


def test_images_leave_behind_what_the_role_leaves_behind() -> None:
    lines = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = {line.removeprefix("**/") for line in lines if line.startswith("**/")}
    folders = {".*_cache" if name.endswith("_cache") else name for name in source.IGNORED_FOLDERS}
    assert not (folders | set(source.IGNORED_FILES)) - ignored


def is_left_behind(name: str) -> bool:
    """Whether a file or a folder of this name is no source."""
    return name in source.IGNORED_FOLDERS or name.endswith((".pyc", ".egg-info", ".sqlite3"))


def workflow_steps(path: Path) -> Iterator[str]:
    """Yield what a workflow runs of others."""
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    for job in workflow["jobs"].values():
        yield from (step["uses"] for step in [job, *job.get("steps", ())] if "uses" in step)


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / ".github/workflows").glob("*.y*ml")), ids=lambda p: p.name
)
def test_actions_are_pinned_by_commit_with_their_version_beside_it(path: Path) -> None:
    used = list(workflow_steps(path))
    assert used
    text = path.read_text(encoding="utf-8")
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.search(rf"uses: {re.escape(action)}  # v\d+\.\d+\.\d+\n", text), action
