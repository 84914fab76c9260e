"""Whether a host can import an application is found out before it is installed."""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.made_up_projects import (
    TARGET,
    contents,
    find,
    write,
)
from support.role_files import (
    CHECKOUT,
    load_module,
    load_shared,
)

host = load_shared("celery_host")
proof = load_module("celery_proof")
release = load_module("celery_release")
SOURCES = str(CHECKOUT / "app/autoscaler/src")
source = load_shared("celery_source")


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
        host.refuse_foreign(wheel, TARGET)
    else:
        with pytest.raises(source.BundleError, match="does not run on the host's Python"):
            host.refuse_foreign(wheel, TARGET)


@pytest.mark.parametrize(
    ("modules", "status", "words"),
    [
        ({"app.py": "import celery; app = celery.Celery()"}, 0, ""),
        ({"app/__init__.py": "", "app/celery.py": "import celery; app = celery.Celery()"}, 0, ""),
        ({}, 3, "ModuleNotFoundError: No module named 'app'"),
        ({"app.py": "x = 1"}, 3, "there is no Celery app in app"),
        ({"app.py": "app = 1"}, 3, "there is no Celery app in app"),
        ({"app.py": "\nimport nowhere"}, 3, "ModuleNotFoundError: No module named 'nowhere' ({}/app.py:2)"),
        (
            {"app/__init__.py": "", "app/celery.py": "import nowhere"},
            3,
            "ModuleNotFoundError: No module named 'nowhere' ({}/app/celery.py:1)",
        ),
        ({"app.py": "import os\nint(os.environ['DB_PASSWORD'])"}, 4, "'(DB_PASSWORD)' ({}/app.py:2)"),
        ({"app.py": "import os\nos.environ['SHOP_HOST']"}, 3, "KeyError: 'SHOP_HOST'"),
        (
            {"app.py": "import sqlite3\nsqlite3.connect(':memory:').execute('SELECT * FROM sites')"},
            5,
            "OperationalError: no such table: sites ({}/app.py:2)",
        ),
        (
            {
                "app.py": "import sqlite3\ntry:\n    sqlite3.connect(':memory:').execute('SELECT * FROM x')\n"
                "except sqlite3.Error as error:\n    raise KeyError('settings') from error"
            },
            5,
            "KeyError: 'settings' ({}/app.py:5)",
        ),
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
        env={"PATH": "/usr/bin", "PYTHONPATH": SOURCES, "DB_PASSWORD": "12345678x"},
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
        tar.add(write(tmp_path / "manifest", '{"paths": ["src", "."]}'), "manifest.json")
        tar.add(
            write(tmp_path / "app.py", f"import os, proj\nassert os.environ['PORT'] == '1'\n{end}"),
            "source/src/app.py",
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
