"""The files for Kubernetes as the cluster gets them: put together by kustomize."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.programs import lacking

ROOT: Final = Path(__file__).parent.parent
FILES: Final = ROOT / "deploy" / "kubernetes"
TOOLS: Final = ROOT / ".tools"


def tool(name: str) -> str:
    """Return the path of a program that ``make test`` builds; skip the test where it is not, and in CI fail."""
    path = TOOLS / name
    if shutil.which(path) is None:
        lacking(f"no {path}: `make test` builds it where Go 1.25 or newer is on the PATH")
    return str(path)


@functools.cache
def built(folder: Path) -> str:
    """Return the stream of objects that ``kubectl apply -k`` sends for a folder."""
    ended = subprocess.run([tool("kustomize"), "build", str(folder)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def objects(folder: Path) -> list[dict[str, Any]]:
    """Return them decoded."""
    return [it for it in yaml.load_all(built(folder), Loader=yaml.CSafeLoader) if it is not None]


def one(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """Return the one object of this kind and name."""
    (found,) = (it for it in objects(folder) if it["kind"] == kind and it["metadata"]["name"] == name)
    return found
