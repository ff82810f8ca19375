"""What keeps this process from a file, a folder or a socket, and how its administrator lets it in."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import Final

import msgspec

from exporter.check.finding import remedy

MAX_PARENTS: Final = 64


class Obstacle(msgspec.Struct, frozen=True):
    """The first thing on the way to a path that this process may not pass or open."""

    path: Path
    owner: int
    group: int
    mode: int
    """The permission bits."""
    on_the_way: bool
    """Whether it is a folder above the path that was asked for."""

    @property
    def told(self) -> str:
        """Say whose it is, and who we are."""
        return (
            f"{self.path} belongs to {_user(self.owner)}:{_group(self.group)} with mode {self.mode:04o},"
            f" and Forewarn runs as {_user(os.geteuid())} (uid {os.geteuid()})"
        )


def obstacle(path: Path, mode: int) -> Obstacle | None:
    """Return what is in the way of using ``path`` in a way (``os.R_OK`` and so on); ``None`` where nothing is.

    Raises:
        OSError: It is not there.
    """
    whole = Path(os.path.abspath(path))
    for folder in [*reversed(whole.parents)][:MAX_PARENTS]:
        if not os.access(folder, os.X_OK, effective_ids=True):
            return _obstacle(folder, on_the_way=True)
    about = whole.stat()
    del about
    return None if os.access(whole, mode, effective_ids=True) else _obstacle(whole, on_the_way=False)


def _obstacle(path: Path, *, on_the_way: bool) -> Obstacle:
    about = path.stat()
    return Obstacle(path, about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode), on_the_way)


def run_as_owner(found: Obstacle, why: str) -> str:
    """Return the remedy that Forewarn run as the user that owns what is in its way."""
    name = _name(found.owner)
    how = f"User={name}" if name else f"User={found.owner}"
    prose = f"{why} Run Forewarn as that user (systemd: {how}; Kubernetes: runAsUser: {found.owner}):"
    if name is not None:
        return remedy(prose, f"runuser -u {shlex.quote(name)} -- forewarn run")
    line = f"setpriv --reuid={found.owner} --regid={found.group} --clear-groups forewarn run"
    return remedy(prose, line)


def let_read(found: Obstacle, target: Path) -> str:
    """Return the remedy that our user be let read a file or folder, by its group where that may read it already."""
    right = stat.S_IXGRP if found.on_the_way else stat.S_IRGRP
    us = _name(os.geteuid()) or str(os.geteuid())
    if found.mode & right and found.group != 0 and _group(found.group) != str(found.group):
        prose = "its group may read it: put Forewarn's user into that, and start Forewarn anew:"
        return remedy(prose, f"usermod -aG {shlex.quote(_group(found.group))} {shlex.quote(us)}")
    what = f"u:{us}:{'x' if found.on_the_way else 'rX'}"
    lines = [f"setfacl -m {what} {shlex.quote(str(found.path))}"]
    if not found.on_the_way and target.is_dir():
        lines = [f"setfacl -R -m {what} {shlex.quote(str(target))}"]
    return remedy("let Forewarn's user read it:", *lines)


def _user(uid: int) -> str:
    return _name(uid) or str(uid)


def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return None


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return str(gid)
