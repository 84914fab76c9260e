"""Every relative link, anchor and runbook of the documentation resolves."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from support.role_files import CHECKOUT

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?\)")
# Documents that code, comments and inventories name, from the root of the checkout.
NAMED = re.compile(r"(?<![\w./-])(docs/[\w./-]+\.(?:md|svg|png)(?:#[\w-]+)?)")
RULES = CHECKOUT / "roles/monitoring/files/rules.yml"


class Reference(NamedTuple):
    """A link, and where it is written."""

    source: Path
    target: str

    def broken(self) -> str | None:
        """What is wrong with it, if anything."""
        path, _, anchor = self.target.partition("#")
        base = CHECKOUT if path.startswith("docs/") and self.source.suffix != ".md" else self.source.parent
        found = (base / path).resolve() if path else self.source
        if not found.exists():
            return f"{self.source.relative_to(CHECKOUT)}: {self.target}: no such file"
        if anchor and found.suffix == ".md" and anchor not in anchors(found):
            return f"{self.source.relative_to(CHECKOUT)}: {self.target}: no such section"
        return None


def tracked(*patterns: str) -> list[Path]:
    """The files of the repository that match, those that are not committed yet among them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    done = subprocess.run(command, check=True, cwd=CHECKOUT, capture_output=True, text=True)
    return [CHECKOUT / name for name in done.stdout.split("\0") if name and (CHECKOUT / name).is_file()]


def prose(path: Path) -> str:
    """The text of a document without its blocks and spans of code."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1 *$", "", path.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "`code`", text)


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a document, as GitHub and GitLab make them of its headings."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1 *$", "", path.read_text(encoding="utf-8"))
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"(?m)^#{1,6} +(.+?) *#*$", text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return frozenset(found)


def links(path: Path) -> list[Reference]:
    """The relative links of a document."""
    return [
        Reference(path, target)
        for target in LINK.findall(prose(path))
        if not re.match(r"[a-z][a-z0-9+.-]*:", target)
    ]


def test_each_link_of_the_documentation_leads_somewhere() -> None:
    documents = tracked("*.md")
    found = [link for path in documents for link in links(path)]
    assert len(found) > len(documents)
    assert [message for link in found if (message := link.broken())] == []


def test_each_document_that_a_file_names_is_there() -> None:
    sources = [path for path in tracked() if path.suffix not in {".md", ".svg", ".png", ".lock"}]
    found = []
    for path in sources:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [Reference(path, target) for target in NAMED.findall(text)]
    assert found
    assert [message for reference in found if (message := reference.broken())] == []


def test_each_page_is_listed_in_the_index() -> None:
    docs = CHECKOUT / "docs"
    indexes = [docs / "README.md", docs / "decisions/README.md"]
    listed = {
        (index.parent / link.target.partition("#")[0]).resolve() for index in indexes for link in links(index)
    }
    assert [path for path in tracked("docs/*.md") if path not in {docs / "README.md", *listed}] == []


def test_each_scenario_is_listed() -> None:
    page = (CHECKOUT / "docs/reference/scenarios.md").read_text(encoding="utf-8")
    scenarios = sorted(path.parent.name for path in CHECKOUT.glob("molecule/*/molecule.yml"))
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == scenarios


def test_each_test_that_proves_a_guarantee_is_there() -> None:
    page = (CHECKOUT / "docs/explanation/guarantees.md").read_text(encoding="utf-8")
    tests = {path.name for path in tracked("*test_*.py")}
    named = set(re.findall(r"`(test_\w+\.py)`", page))
    assert named
    assert named - tests == set()


def test_each_alert_has_a_runbook_of_its_name() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
    runbooks = re.findall(r"runbook: (\S+)", RULES.read_text(encoding="utf-8"))
    assert runbooks == [f"docs/how-to/alerts.md#{alert.lower()}" for alert in alerts]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a](missing.md)", "missing.md: no such file"),
        ("[a](#nowhere)", "#nowhere: no such section"),
        ("[a](page.md#no-such-words)", "page.md#no-such-words: no such section"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(f"{__name__}.CHECKOUT", tmp_path)
    (tmp_path / "page.md").write_text(f"# A page\n\n## Twice\n\n## Twice\n\n[b](#twice-1) {text}\n")
    found = [link.broken() for link in links(tmp_path / "page.md")]
    assert found == [None, f"page.md: {message}"]
