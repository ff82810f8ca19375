"""What is true of the repository as a whole."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

FOREIGN_PATHS = ["/" + name for name in ("work/", "opt/fk", "root/", "home/")]
"""Folders of some machine; written so that this file does not name them itself."""

REGISTRIES = [
    host.replace(" ", ".") for host in ("pypi org", "pythonhosted org", "npmjs org", "npmjs com", "golang org")
]


def tracked() -> list[Path]:
    """Return every file that is, or is about to be, part of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_files() -> dict[str, str]:
    """Return the content of every text file by its path."""
    contents = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in tracked()}
    return {path: content.decode() for path, content in contents.items() if b"\0" not in content}


def project() -> dict[str, Any]:
    """Return what pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name: str) -> dict[str, str]:
    """Return the pinned version of each package of a lock file; fail where one is not pinned by hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.findall(r"^(?![ #])(.+?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    for block in blocks:
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)[^\n]*\\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", block)
        assert match, f"not pinned by hash: {block.splitlines()[0]}"
        found[canonicalize_name(match[1])] = match[2]
    return found


def test_the_files_are_found() -> None:
    assert {"pyproject.toml", "exporter/settings.py", "tests/test_repository.py", "README.md"} <= text_files().keys()


@pytest.mark.parametrize("word", [*FOREIGN_PATHS, *REGISTRIES])
def test_no_file_names_a_machines_folder_or_a_registry(word: str) -> None:
    named = re.compile(rf"(?<![\w.~]){re.escape(word)}" if word.startswith("/") else re.escape(word))
    assert [path for path, text in text_files().items() if named.search(text)] == []


@pytest.mark.parametrize("name", ["run", "dev", "build"])
def test_lock_files_pin_everything_by_hash_and_name_no_host(name: str) -> None:
    assert pins(name)
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["workers/node", "browser_npm"])
def test_a_node_lock_file_pins_everything_by_hash_and_names_no_host(name: str) -> None:
    folder = ROOT / "tests" / name
    text = (folder / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    own = packages.pop("")
    assert "://" not in text
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert own["dependencies"] == json.loads((folder / "package.json").read_text())["dependencies"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("run", project()["project"]["dependencies"]),
        ("dev", project()["project"]["dependencies"] + project()["dependency-groups"]["dev"]),
        ("build", project()["build-system"]["requires"]),
    ],
)
def test_a_lock_file_holds_what_pyproject_asks_for(name: str, wanted: list[str]) -> None:
    pinned = pins(name)
    unmet = [
        text
        for text in wanted
        for requirement in [Requirement(text)]
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]
    assert unmet == []


@pytest.mark.parametrize("name", ["run", "build"])
def test_the_tests_run_on_the_versions_that_are_shipped(name: str) -> None:
    tested = pins("dev")
    assert {
        package: version for package, version in pins(name).items() if tested.get(package, version) != version
    } == {}


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["project"]["license"] == "Apache-2.0"


def test_every_make_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)$|`make ([a-z]+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {one or other for one, other in named}
    assert {"run", "test", "setup"} <= wanted
    assert wanted <= targets


def test_every_make_target_is_told_by_make_help() -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    targets = ["help", "setup", "run", "test", "generate", "bench", "lock"]
    assert re.findall(r"^make (\w+)", told, re.MULTILINE) == targets


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_ci_script_may_be_run() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
