"""The container image, built by Debian's buildah on a base of Debian's own packages, without a container engine."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.programs import lacking, need

ROOT: Final = Path(__file__).parent.parent
SUITE: Final = "bookworm"
"""The Debian that has the Python of the usual base, 3.11."""

SEPARATE: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a program with mounts and processes of its own, which end with it: however a test ends, none is left behind."""

NOT_IN_A_BASE: Final = (
    "dev",
    "proc",
    "sys",
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)
"""Folders that are empty in a base: the kernel's, and what Debian's installer leaves behind."""

NOT_COPIED: Final = (".git", ".venv", ".tools", "node_modules", ".*_cache", ".hypothesis")
"""What is large, and in no way near the image."""

PATIENCE: Final = 400.0
"""Seconds for one step of a build, on a busy machine."""


class Image:
    """Forewarn's image, and the store that it lies in."""

    def __init__(self) -> None:
        for program in ("buildah", "debootstrap"):
            need(program, program)
        if os.geteuid() != 0:
            lacking("an image is built as root here: mounts and network namespaces are its own")
        self.folder = Path(tempfile.mkdtemp(prefix="fw-image-"))
        (self.folder / "tmp").mkdir()
        # As it is now, with what lies around: some of it is not to reach the image.
        self.context = self.folder / "context"
        shutil.copytree(ROOT, self.context, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        self._wheels = self.folder / "wheels"

    def buildah(self, *arguments: str) -> str:
        """Return what buildah says; AssertionError with all it said where it fails."""
        return self._run(self.command(*arguments))

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of buildah with a store of its own."""
        return [
            "buildah",
            *("--root", str(self.folder / "store"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs"),
            *arguments,
        ]

    def make_base(self) -> str:
        """Make what stands in for the public base: Debian's smallest system with its Python. Return its name."""
        packed = self.folder / "base.tar"
        system = self.folder / "system"
        system.mkdir()
        left_out = " ".join(f"--exclude=./{path}/*" for path in NOT_IN_A_BASE)
        # In memory: the installer waits for the disk after each file.
        install = (
            f'mount -t tmpfs none "$1"; debootstrap --variant=minbase --include=python3-venv {SUITE} "$@" >&2; '
            f'set -f; tar --numeric-owner -C "$1" {left_out} -cf "$0" .; umount "$1"'
        )
        self._run(
            [
                *SEPARATE,
                *("sh", "-euc"),
                install,
                *(str(packed), str(system), *mirror()),
            ]
        )
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, str(packed), "/")
        self.buildah("commit", "--quiet", "--rm", container, "localhost/base")
        packed.unlink()
        return "localhost/base"

    def fetch_wheels(self) -> None:
        """Fetch what the lock files pin, by this machine's pip and its settings: the build itself has no network."""
        self._run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--dest", str(self._wheels)),
                *("-r", "requirements/run.txt", "-r", "requirements/build.txt"),
            ]
        )

    def build(self, base: str, name: str) -> None:
        """Build the Dockerfile on ``base``, of the packages that were fetched."""
        settings = self.folder / "pip.conf"
        settings.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        self._run(
            [
                *(*SEPARATE, "--net"),
                *self.command("build", "--quiet", "--isolation", "chroot", "--format", "docker", "--timestamp", "0"),
                *("--build-arg", f"BASE={base}", "--secret", f"id=pip.conf,src={settings}"),
                *("--volume", f"{self._wheels}:/wheels:ro", "--pull-never", "--tag", name, str(self.context)),
            ]
        )

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what an image says of itself."""
        told: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", name))
        return told

    def container(self, name: str) -> tuple[str, Path]:
        """Make a container of an image; return its name and its root folder."""
        made = self.buildah("from", "--pull-never", name).strip()
        return made, Path(self.buildah("mount", made).strip())

    def _run(self, command: Sequence[str]) -> str:
        given = {**os.environ, "TMPDIR": str(self.folder / "tmp")}
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=given, timeout=PATIENCE)
        assert ended.returncode == 0, f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr[-6000:]}"
        return ended.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.buildah("rm", "--all")
        finally:
            shutil.rmtree(self.folder)


@functools.cache
def mirror() -> tuple[str, ...]:
    """Return where this machine has Debian's packages from, if it says so: else the installer knows one."""
    if shutil.which("apt-get") is None:
        return ()
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    ).stdout
    found = [line.split() for line in told.splitlines()]
    return next(((uri,) for codename, uri in found if codename == SUITE and uri.startswith("http")), ())
