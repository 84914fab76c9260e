"""Files that are written together, and only when the programs that read them accept all of them."""

from pathlib import Path
from typing import Any

import pytest
from support.role_files import load_module

checked = load_module("checked_files")


class Module:
    """What the functions need of an AnsibleModule."""

    check_mode = False

    def __init__(self, **params: Any) -> None:
        self.params = {"files": [], "secret_files": [], "checks": [], "units": [], **params}

    def atomic_move(self, source: str, target: str) -> None:
        """Move a file."""
        Path(source).rename(target)

    def load_file_common_arguments(self, params: dict[str, Any], path: str) -> dict[str, Any]:
        """Return what is wanted of a file."""
        return {**params, "path": path}

    def set_fs_attributes_if_different(self, arguments: dict[str, Any], changed: bool) -> bool:
        """Set the mode alone: the owner needs root."""
        mode, path = int(arguments["mode"], 8), Path(arguments["path"])
        if path.stat().st_mode & 0o7777 == mode:
            return changed
        path.chmod(mode)
        return True


def file(path: Path, content: str = "one\n", mode: str = "0644") -> dict[str, Any]:
    return {"path": str(path), "content": content, "mode": mode}


def test_files_are_written_with_their_modes_and_folders_once(tmp_path: Path) -> None:
    module = Module(
        files=[file(tmp_path / "a/b/plain", "one")], secret_files=[file(tmp_path / "secret", "hush", "0600")]
    )

    first, second = checked.run(module), checked.run(module)

    assert (tmp_path / "a/b/plain").read_text() == "one\n"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert first["written"] == [str(tmp_path / "a/b/plain"), str(tmp_path / "secret")]
    assert "hush" not in str(first["diff"])
    assert (first["changed"], second["changed"], second["written"]) == (True, False, [])


def test_what_one_check_refuses_leaves_all_files_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("former\n")
    reader = tmp_path / "reader"
    reader.write_text(
        '#!/bin/sh\ngrep -q wrong "$1" && echo "FAILED: $1: line 1 is wrong" && exit 1\nexit 0\n'
    )
    reader.chmod(0o755)
    bad = tmp_path / "bad"
    module = Module(
        files=[file(tmp_path / "good"), file(bad, "wrong\n")], checks=[[str(reader), "{root}" + str(bad)]]
    )

    with pytest.raises(checked.RefusedError, match=f"FAILED: {bad}: line 1 is wrong$"):
        checked.run(module)

    assert (tmp_path / "good").read_text() == "former\n"
    assert not bad.exists()


def test_a_check_that_is_not_installed_is_left_out(tmp_path: Path) -> None:
    module = Module(files=[file(tmp_path / "a")], checks=[["no-such-program-here", "{root}"]])

    assert checked.run(module)["changed"]


def test_in_check_mode_wrong_files_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    module = Module(files=[file(tmp_path / "a")], checks=[["false"]])
    module.check_mode = True

    with pytest.raises(checked.RefusedError):
        checked.run(module)
    module.params["checks"] = []
    assert checked.run(module)["changed"]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "Checking '/s/am.yml'  FAILED: undefined receiver \"x\" used in route\n\namtool: error: 1 file\n",
            "Checking '/am.yml'  FAILED: undefined receiver \"x\" used in route",
        ),
        (
            "Checking /s/p.yml\n  FAILED: parsing YAML file /s/p.yml: no\n",
            "FAILED: parsing YAML file /p.yml: no",
        ),
        ("Checking /s/r.yml\n  FAILED:\n/s/r.yml: 3:5: bad\n", "FAILED: /r.yml: 3:5: bad"),
        ("/s/a.timer:2: Failed to parse: x\nUnit a.timer\n", "/a.timer:2: Failed to parse: x"),
        (
            "Checking /s/p.yml\n SUCCESS: /s/p.yml\n\nChecking /s/r.yml\n  FAILED:\n/s/r.yml: 3:5: bad\n",
            "FAILED: /r.yml: 3:5: bad",
        ),
        ("", "it says nothing"),
    ],
)
def test_the_line_that_says_what_is_wrong_is_found(output: str, line: str) -> None:
    assert checked.refusal(output, "/s") == line


def test_a_program_that_is_written_with_its_unit_is_not_missed() -> None:
    said = "a.service: Command /usr/local/sbin/a is not executable: No such file or directory\n"

    assert checked.complaints(said, {"/usr/local/sbin/a"}) == ""
    assert checked.complaints(said, {"/usr/local/sbin/b"}) == said.strip()


def test_a_unit_that_the_host_does_not_have_yet_is_left_out(tmp_path: Path) -> None:
    path = "/etc/systemd/system/no-such-unit-here.service"

    assert not checked.is_there("no-such-unit-here.service", {"/etc/default/other"})
    assert checked.is_there("no-such-unit-here.service", {path})
    assert checked.run(Module(files=[file(tmp_path / "a")], units=["no-such-unit-here.service"]))["changed"]


def test_files_that_systemd_has_not_read_since_they_were_written_count_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = tmp_path / "copy@.service"
    dropin = tmp_path / "other.service.d/more.conf"
    files = [file(unit), file(dropin), file(tmp_path / "plain")]
    # As it is after a play that was cut off: systemd knows what was there before, of all but one.
    systemctl = tmp_path / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text("#!/bin/sh\nfor unit in $(seq 3 $#); do echo NeedDaemonReload=yes; echo; done\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:/usr/bin:/bin")
    monkeypatch.setattr(checked, "UNIT_FOLDERS", (str(tmp_path),))
    (tmp_path / "other.service").touch()
    checked.run(Module(files=files))

    found = checked.run(Module(files=files, units=["copy@daily.service", "other.service", "away.service"]))

    assert (found["changed"], found["written"]) == (True, [str(unit), str(dropin)])


def test_a_program_that_says_that_it_can_read_nothing_refuses_though_it_ends_well(tmp_path: Path) -> None:
    said = "stanza: main\\n status: error (other)\\n  [CryptoError] unable to load info file\\037x\\n HINT"
    check = ["sh", "-c", f"printf '{said}'"]

    with pytest.raises(checked.RefusedError, match=r"\[CryptoError\] unable to load info file$"):
        checked.run_check(check, str(tmp_path), ())
