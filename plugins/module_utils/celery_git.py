"""A commit of a git repository as a folder on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError

PASSWORD = re.compile(r"[a-z+]+://[^/@]*:[^/@]*@")
COMMIT = re.compile(r"[0-9a-f]{40}")


def check_out(url: str, revision: str, cache: Path, run: str) -> tuple[Path, str]:
    """Return a commit's files and its id. What a full id names is not fetched twice.

    Raises:
        BundleError: the repository or the revision cannot be had.
    """
    if not revision:
        raise BundleError(f"celery_app_revision is needed: which branch, tag or commit of {url}?")
    if PASSWORD.match(url):
        raise BundleError(
            "celery_app_source holds a password, which others would see: give it to git (gitcredentials(7))"
        )
    repository = cache / "git" / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}.git"
    if not repository.exists():
        git("init", "--quiet", "--bare", str(repository))
    commit = resolve(repository, revision) if COMMIT.fullmatch(revision) else ""
    if not commit:
        fetch_once(repository, url, f"{run} {revision}")
        commit = resolve(repository, revision)
    if not commit:
        raise BundleError(f"{url} has no revision {revision}")
    files = repository.parent / commit
    if not files.exists():
        partial = repository.parent / f"{commit}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        # With its history: some build systems take the version from the tags.
        git("clone", "--quiet", "--shared", "--no-checkout", str(repository), str(partial))
        git("-C", str(partial), "checkout", "--quiet", "--detach", commit)
        partial.rename(files)
    return files, commit


def fetch_once(repository: Path, url: str, occasion: str) -> None:
    """Fetch all branches and tags, if it has not been done on this occasion: all hosts shall get the same."""
    fetched = repository / "fetched.json"
    if fetched.exists() and json.loads(fetched.read_text()) == occasion:
        return
    everything = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    git("-C", str(repository), "fetch", "--quiet", "--prune", url, *everything)
    fetched.write_text(json.dumps(occasion))


def resolve(repository: Path, revision: str) -> str:
    """Return the id of the commit that a revision names, or nothing."""
    command = ["git", "-C", str(repository), "rev-parse", "--quiet", "--verify", "--end-of-options"]
    done = subprocess.run([*command, f"{revision}^{{commit}}"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def git(*arguments: str) -> None:
    """Run git, which asks nobody anything.

    Raises:
        BundleError: it failed; its own words are the message.
    """
    environment = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 -- wherever the user has it
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise BundleError("git is not installed on the controller") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("fatal: ", "error: "))]
        raise BundleError(
            f"git: {(lines or [done.stderr.strip()])[0].partition(': ')[2] or done.stderr.strip()}"
        )
