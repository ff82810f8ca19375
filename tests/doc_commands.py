"""The commands of the documentation, and a sandbox in which each of them is run as it is written.

A block of code says what it is: ```` ```sh ```` and ```` ```console ```` are commands. One whose first line is
``# FILE`` is a file, which the commands after it find there. In the sandbox the folders, ports and names of the
documentation lead somewhere else, and only programs that do no harm, and stand-ins for those that cannot be there
(:mod:`tests.doc_programs`), can be found: a command that nobody thought of fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from tests.doc_programs import STAND_INS
from tests.servers import alive, free_port, wait_until

ROOT: Final = Path(__file__).parent.parent

COMMANDS: Final = ("sh", "console")
"""The languages of blocks that are run. In the runbooks ``sh`` only reads, and is run beside a live server too."""

LANGUAGES: Final = (
    *COMMANDS,
    *(
        "css",
        "dockerfile",
        "go",
        "html",
        "ini",
        "js",
        "json",
        "nginx",
        "promql",
        "python",
        "ruby",
        "text",
        "toml",
        "yaml",
    ),
)
"""What a block may say that it is."""

RUNBOOKS: Final = "docs/runbooks/"

FILES: Final = ("dockerfile", "ini", "json", "text", "toml", "yaml")
"""The languages of blocks that may be files."""

DEADLINE: Final = 90.0
"""Seconds that one block may take on a busy machine."""

REAL: Final = (
    *("awk", "base64", "bash", "cat", "chmod", "cmp", "cp", "curl", "cut", "date", "df", "diff", "env", "false"),
    *(
        "free",
        "gzip",
        "head",
        "id",
        "ln",
        "ls",
        "mkdir",
        "mktemp",
        "mv",
        "nproc",
        "openssl",
        "paste",
        "printf",
        "prlimit",
    ),
    *(
        "promtool",
        "ps",
        "rm",
        "sed",
        "seq",
        "sha256sum",
        "sleep",
        "sort",
        "ss",
        "stat",
        "tail",
        "tee",
        "test",
        "timeout",
    ),
    *("touch", "tr", "true", "uniq", "uptime", "vmstat", "wc", "redis-cli", "column", "amtool"),
)
"""Programs that are run for real: they do no harm, and what they are given leads into the sandbox."""

OWN_PORTS: Final = (9386, 9387, 9125, 8125, 8126, 8127)
"""The ports of the documentation that Forewarn, or something beside it, listens on."""

SILENT_PORTS: Final = (4318, 9090, 9093, 3000)
"""Those of other services: a web server that says nothing."""

PORTS: Final = (7419, 7420, *OWN_PORTS, *SILENT_PORTS)
"""All of them. The first two are the server's."""

TYPED: Final = b"opensesame\n"
"""What is typed where a command of a block asks, once: the password of the examples."""

SETTINGS: Final = """\
[[servers]]
name = "faktory"
system = "faktory"
url = "tcp://127.0.0.1:7419"
redis_url = "unix:///var/lib/faktory/db/redis.sock"
"""
"""What the settings are on a machine where a page begins with a Forewarn that runs already."""

_FENCE: Final = re.compile(r"^( *)```(\w*)$")
_FILE: Final = re.compile(r"# (?:[^#/\s]+: )?((?:/|[\w.-]+/)*[\w.-]+\.(?:toml|ya?ml|conf|ini|json|service|cfg|txt))$")
_PATH: Final = re.compile(r"(?<![\w.)}\]$*-])/(etc|var|run|srv|tmp|opt|usr/local|home|root)\b")
_HOST: Final = re.compile(r"(?<![\w.-])(?:[\w-]+\.)*example(?:\.(?:com|net|org))?\b")


class Block(Struct, frozen=True):
    """A block of code of a page."""

    page: str
    """The page's path in the repository."""
    line: int
    """Of its first line in the page."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"

    @property
    def file(self) -> str | None:
        """The path of the file that it is, if it is one."""
        found = _FILE.match(self.text.partition("\n")[0]) if self.language in FILES else None
        return found[1] if found else None


def pages() -> dict[str, str]:
    """Return the text of every page by its path: the README first, and all of docs."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def blocks(page: str, text: str) -> Iterator[Block]:
    """Yield every block of a page, in a list item too. One that is only indented has no language."""
    lines = text.splitlines()
    opened: tuple[int, str, str] | None = None
    held: list[str] = []
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is not None:
            start, indent, language = opened
            if line == f"{indent}```":
                yield Block(page, start, language, "\n".join(held) + "\n")
                opened, held = None, []
            else:
                held.append(line.removeprefix(indent))
        elif fence:
            opened = (number, fence[1], fence[2])
        elif (
            line.startswith("    ") and number > 1 and not lines[number - 2].strip() and not _in_list(lines, number - 2)
        ):
            yield Block(page, number, "", line.strip() + "\n")
    if opened is not None:
        yield Block(page, opened[0], "", "".join(held))


def _in_list(lines: list[str], before: int) -> bool:
    """Tell whether the paragraph above belongs to a list: then what is indented goes on with it."""
    while before >= 0 and not lines[before].strip():
        before -= 1
    while before >= 0 and lines[before].startswith("  "):
        before -= 1
    return before >= 0 and re.match(r"(?:[-*]|\d+\.) ", lines[before]) is not None


def every_block() -> list[Block]:
    """Return every block of every page."""
    return [block for page, text in pages().items() for block in blocks(page, text)]


def of_page(page: str) -> list[Block]:
    """Return what is done for a page, from its top to its end: its commands, and the files that they use."""
    of_runbook = page.startswith(RUNBOOKS)
    return [
        block
        for block in blocks(page, pages()[page])
        # What a runbook only reads with is run beside a live Prometheus, by tests/test_live_alerts.py.
        if block.file or (block.language in COMMANDS and not (of_runbook and block.language == "sh"))
    ]


class Failed(Exception):  # noqa: N818 - an outcome
    """A block did not end well."""


class Sandbox:
    """A machine for one page, below one folder: its files, its programs, and what a shell leaves for the next block."""

    def __init__(self, *, port: int, web_port: int, socket: str, elsewhere: int, faktory: str | None = None) -> None:
        """The server's two ports and its Redis's socket; ``elsewhere``: the port of a web server that says nothing."""
        # Not pytest's tmp_path: the path of a unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="fw-"))
        self.root = self.folder / "r"
        self.checkout = self.root / "home" / "you" / "forewarn"
        self._state = self.folder / "state"
        self._bin = self.folder / "bin"
        self.ports: dict[int, int] = {each: free_port() for each in OWN_PORTS}
        self.ports |= {7419: port, 7420: web_port} | dict.fromkeys(SILENT_PORTS, elsewhere)
        self._prey = _prey()
        self._environment = {
            "HOME": str(self.root / "home" / "you"),
            "LANG": "C.UTF-8",
            "PATH": str(self._bin),
            "DOC_STATE": str(self._state),
            "DOC_ROOT": str(self.root),
            "DOC_PREY": str(self._prey.pid),
            "DOC_PYTHON": sys.executable,
            "FOREWARN_WEB_LISTEN_ADDRESS": f"127.0.0.1:{self.ports[9386]}",
            **({} if faktory is None else {"DOC_FAKTORY": faktory}),
        }
        self._make_files(socket)
        self._make_programs()

    def mapped(self, text: str) -> str:
        """Return ``text`` with folders, ports and names that lead into the sandbox."""
        text = _PATH.sub(lambda found: f"{self.root}{found[0]}", text)
        text = _HOST.sub("localhost", text)
        for told, real in self.ports.items():
            text = re.sub(rf"(?<![\d.\w-]){told}(?![\d.\w-])", str(real), text)
        return re.sub(r"\b(WORKER_PID|PID)\b", str(self._prey.pid), text)

    def path(self, path: str) -> Path:
        """Return where a path of the documentation leads."""
        return Path(self.mapped(path)) if path.startswith("/") else self.checkout / path

    def write(self, path: str, text: str) -> None:
        """Write a file of the documentation."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = self.mapped(text)
        if "web_url" not in text:  # its default is a port that is not the one of this server
            text = re.sub(
                r'^url = "tcp(\+tls)?://.*', lambda it: _web_url(it, self.ports[7420]), text, flags=re.MULTILINE
            )
        target.write_text(text)

    async def run(self, block: Block) -> str:
        """Run one block of commands as it is written, in the shell that ran the one before; return what it wrote.

        Raises:
            Failed: It did not end well.
        """
        script = self._state / "block.sh"
        kept = self._state / "kept.sh"
        script.write_text(
            f"set -euo pipefail\n. {kept}\n{self.mapped(block.text)}\n"
            f"set +eu\n{{ export -p; declare -f; printf 'cd %q\\n' \"$PWD\"; "
            f"for name in FAKTORY_WEB FAKTORY_PORT REDIS FOREWARN PROMETHEUS; do "
            f'[ -z "${{!name+x}}" ] || printf \'%s=%q\\n\' "$name" "${{!name}}"; done; }} > {kept}\n'
        )
        process = await asyncio.create_subprocess_exec(
            *("bash", str(script)),
            env=self._environment,
            cwd=self.checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(TYPED), DEADLINE)
        except TimeoutError:
            raise Failed(f"{block}: did not end within {DEADLINE:g} s:\n{block.text}{self._told()}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        told = out.decode(errors="replace")
        if process.returncode:
            raise Failed(f"{block}: exit status {process.returncode}:\n{block.text}---\n{told}{self._told()}")
        return told

    def begin_here(self) -> None:
        """Let :meth:`begin_anew` come back to the shell as it is now."""
        shutil.copy(self._state / "kept.sh", self._state / "begin.sh")

    def begin_anew(self) -> None:
        """Forget what the shell has got since :meth:`begin_here`; files stay."""
        shutil.copy(self._state / "begin.sh", self._state / "kept.sh")

    async def play(self, page: str) -> dict[int, str]:
        """Do what a page says; return what each block of commands wrote, by its line."""
        told: dict[int, str] = {}
        for block in of_page(page):
            if block.file:
                self.write(block.file, block.text)
            else:
                told[block.line] = await self.run(block)
        return told

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything that was started here, and remove it."""
        for path in self._state.glob("*.pid"):
            await _end(int(path.read_text()))
        self._prey.kill()
        await asyncio.to_thread(self._prey.wait)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _told(self) -> str:
        logs = sorted(self._state.glob("*.log"))
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs)

    def _make_files(self, socket: str) -> None:
        """Make what stands on a machine with a Faktory, and a checkout."""
        self._state.mkdir()
        for name in ("etc/faktory/conf.d", "etc/forewarn", "etc/prometheus/rules", "etc/ssl/certs", "etc/ssl/private"):
            (self.root / name).mkdir(parents=True)
        for name in ("etc/systemd/system", "var/lib/faktory/db", "var/lib/forewarn", "var/log/faktory", "var/log/apt"):
            (self.root / name).mkdir(parents=True)
        for name in ("var/tmp", "tmp", "run/forewarn", "run/secrets", "srv", "opt", "usr/local/bin", "var/lib/grafana"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "etc/faktory/conf.d/throttles.toml").write_text("[throttles.mail]\nconcurrency = 5\n")
        (self.root / "var/lib/faktory/db/redis.sock").symlink_to(socket)
        (self.root / "var/lib/faktory/db/redis.log").write_text("Ready to accept connections\n")
        (self.root / "var/lib/faktory/db/faktory.rdb").write_bytes(b"REDIS0011")
        (self.root / "var/log/apt/history.log").write_text("Upgrade: faktory:amd64 (1.9.3, 1.9.4)\n")
        log = (ROOT / "tests" / "go_crashes" / "go1.24.11.txt").read_text().split("##### ")[1].partition("\n")[2]
        for name in ("faktory.log", "faktory.log.1", "faktory/faktory.log"):
            (self.root / "var/log" / name).write_text(log)
        for name in ("faktory.log.1.gz", "faktory.log.2.gz", "faktory.log.zst"):
            (self.root / "var/log" / name).write_bytes(gzip.compress(log.encode()))
        (self.root / "etc/prometheus/prometheus.yml").write_text("scrape_configs: []\n")
        shutil.copy(ROOT / "alerts" / "alertmanager.yml", self.root / "etc/prometheus/alertmanager.yml")
        (self.root / "var/lib/forewarn/state.json").write_text('{"version": 1, "servers": {}}')
        self.checkout.mkdir(parents=True)
        # What a person would see, that an answer tells of a failure, is a failure here.
        (self.checkout.parent / ".curlrc").write_text("fail\nsilent\nshow-error\n")
        self.write("/etc/forewarn/forewarn.toml", SETTINGS)
        for path in ROOT.iterdir():
            # Copied, where a command may write; what is never written is only linked.
            if path.name in {"alerts", "dashboards", "deploy", "docs"}:
                shutil.copytree(path, self.checkout / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
            elif path.name in {
                "Makefile",
                "exporter",
                "pyproject.toml",
                "requirements",
                "Dockerfile",
                "LICENSE",
                "tests",
            }:
                (self.checkout / path.name).symlink_to(path)
        (self._state / "kept.sh").write_text(f"cd {shlex.quote(str(self.checkout))}\n")
        (self._state / "ports.json").write_text(json.dumps(self.ports))

    def _make_programs(self) -> None:
        self._bin.mkdir()
        for name in REAL:
            if (found := shutil.which(name)) and name not in STAND_INS:
                (self._bin / name).symlink_to(found)
        for name, program in STAND_INS.items():
            found = shutil.which(name) if program.real else None
            script = f'DOC_REAL={found or ""} exec {sys.executable} -I {ROOT}/tests/doc_programs.py {name} "$@"'
            self._place(name, script)
        # A search that finds nothing is no failure: what is looked for need not be in the sandbox's logs.
        self._place("grep", f'{shutil.which("grep")} "$@" || [ $? -eq 1 ]')
        (self.checkout / ".venv" / "bin").mkdir(parents=True)
        for name in ("forewarn", "python", "pip"):
            (self.checkout / ".venv" / "bin" / name).symlink_to(self._bin / name)

    def _place(self, name: str, script: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


async def _end(pid: int) -> None:
    """End a process and its group, and wait until it has gone: what it started ends with it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    try:
        await wait_until(lambda: not alive(pid), 20.0, what="what a page started has ended")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _web_url(url: re.Match[str], port: int) -> str:
    return f'{url[0]}\nweb_url = "{"https" if url[1] else "http"}://localhost:{port}"'


def _prey() -> subprocess.Popen[bytes]:
    """Start a process that stands for the server's and for workers' where one is sent a signal: it minds none."""
    deaf = "import signal as s; [s.signal(n, s.SIG_IGN) for n in (1, 2, 3, 15, 21)]; s.pause()"
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", deaf], stdin=subprocess.DEVNULL, start_new_session=True)
