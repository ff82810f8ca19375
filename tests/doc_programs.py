"""Stand-ins for the programs that the documentation names and that a test cannot run, or must not.

Each takes only what it knows: an option that is not listed here fails, so that a new command is thought about by
somebody. What they print is what the rest of a pipeline needs. Run as a program by the wrappers of
:mod:`tests.doc_commands`, so that nothing outside the standard library is imported.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

WRONG: Final = 64
"""Exit status for a command line that is not known."""

READY: Final = 60.0
"""Seconds within which Forewarn must answer."""


class Program(NamedTuple):
    """What a stand-in understands."""

    why: str
    """Why the real one is not run."""
    verbs: tuple[str, ...] = ()
    """What its first words must be one of, where it has such."""
    values: tuple[str, ...] = ()
    """Options with a value: behind it, or joined by ``=``."""
    switches: tuple[str, ...] = ()
    """Options without one."""
    does: Callable[[list[str], Mapping[str, str]], int] | None = None
    """What it does with its words and options; ``None``: nothing."""
    real: bool = False
    """Whether the real one is run for what is harmless."""


def main(name: str, arguments: list[str]) -> int:
    """Do what the program ``name`` would."""
    program = STAND_INS[name]
    if program.verbs == ANYTHING:
        assert program.does is not None
        return program.does(arguments, {})
    words, options = parsed(name, program, arguments)
    if program.verbs and not any(" ".join(words).startswith(verb) for verb in program.verbs):
        refuse(name, f"{' '.join(words[:2])!r} is none of {', '.join(program.verbs)}")
    return 0 if program.does is None else program.does(words, options)


def parsed(name: str, program: Program, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words and the options of a command line; refuse what is not known.

    What stands behind ``--``, or behind the image that is run, is for another program.
    """
    words: list[str] = []
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        each = rest.pop(0)
        if each == "--":
            words += rest
            break
        if name == "docker" and words[:1] == ["run"] and len(words) > 1:
            words += [each, *rest]
            break
        if not each.startswith("-") or each == "-" or re.fullmatch(r"-\d+\w*", each):
            words.append(each)
            continue
        option, joined, value = each.partition("=")
        if option in program.values:
            if not joined and not rest:
                refuse(name, f"{option} has no value")
            options[option] = value if joined else rest.pop(0)
        elif each in program.switches:
            options[each] = ""
        else:
            refuse(name, f"{each} is not known")
    return words, options


def refuse(name: str, problem: str) -> NoReturn:
    """End as a program does that does not understand its command line."""
    sys.stderr.write(f"{name}: {problem}: mend the command, or teach the stand-in in tests/doc_programs.py\n")
    raise SystemExit(WRONG)


def state() -> Path:
    """Return the folder of what the programs of one page tell each other."""
    return Path(os.environ["DOC_STATE"])


# --- forewarn and the server ----------------------------------------------------------------------------------------


def forewarn(arguments: list[str], _: Mapping[str, str]) -> int:
    """Run Forewarn itself: what would run until stopped is left running once it answers, and ended by the next."""
    command = [sys.executable, "-m", "exporter.cli", *arguments]
    kind = next((each for each in arguments if not each.startswith("-")), "")
    if kind == "top":
        extra = (
            [] if any(each.startswith("--url") for each in arguments) else ["--url", f"http://127.0.0.1:{port(9386)}"]
        )
        extra += [] if "--once" in arguments else ["--once"]  # there is no terminal to redraw
        return subprocess.run([*command, *extra], check=False).returncode
    settle(arguments)
    if kind not in {"run", "exec", "demo"} or {"--help", "-h"} & set(arguments):
        os.execv(command[0], command)  # noqa: S606 - a program of this test
    if kind == "demo" and not given("web.listen-address", arguments):
        command += ["--web.listen-address", f"127.0.0.1:{port(9386)}"]
    end_the_one_before()
    piped = kind == "run" and "-" in values("faktory.log-file", arguments)
    with (state() / "forewarn.log").open("ab") as log:
        said = log.tell()
        process = subprocess.Popen(
            command,
            stdin=None if piped else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (state() / "forewarn.pid").write_text(str(process.pid))
    if not wait_until_ready(process, address(arguments)):
        wait_until_polled(said)
    if kind in {"run", "exec"} and not piped:
        return 0
    process.send_signal(signal.SIGINT if kind == "demo" else signal.SIGTERM)
    status = process.wait(30)
    if piped:  # the server before the pipe runs until somebody ends it
        end("faktory.pid", signal.SIGTERM)
    return 0 if status in {0, 130, 143} else status


def settle(arguments: Sequence[str]) -> None:
    """Say in the environment what this machine alone makes necessary: where the server is, and its Web UI."""
    if given("config", arguments):
        return
    os.environ.setdefault("FAKTORY_URL", f"tcp://127.0.0.1:{port(7419)}")
    url = given("faktory.url", arguments) or os.environ["FAKTORY_URL"]
    scheme = "https" if url.startswith("tcp+tls") else "http"
    os.environ.setdefault("FOREWARN_FAKTORY_WEB_URL", f"{scheme}://localhost:{port(7420)}")


def port(told: int) -> int:
    """Return where a port of the documentation leads."""
    return int(json.loads((state() / "ports.json").read_text())[str(told)])


def values(flag: str, arguments: Sequence[str]) -> list[str]:
    """Return what is given for a flag."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return [
        each.partition("=")[2] if "=" in each else following
        for each, following in pairs
        if each.partition("=")[0] == f"--{flag}"
    ]


def given(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what a flag or its variable says."""
    told = values(flag, arguments)
    return told[-1] if told else os.environ.get("FOREWARN_" + flag.upper().replace(".", "_").replace("-", "_"))


def address(arguments: Sequence[str]) -> str:
    """Return where a Forewarn with these arguments listens."""
    listen = given("web.listen-address", arguments)
    config = given("config", arguments)
    if config and not values("web.listen-address", arguments):
        listen = tomllib.loads(Path(config).read_text()).get("web", {}).get("listen_address", listen)
    host, _, number = str(listen).rpartition(":")
    return f"{host if host not in {'', '0.0.0.0', '[::]'} else '127.0.0.1'}:{number}"


def wait_until_ready(process: subprocess.Popen[bytes], where: str) -> bool:
    """Wait until Forewarn answers there, by TLS or without; return whether it has told that it is ready.

    It tells nobody whom it does not know.
    """
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    until = time.monotonic() + READY
    while time.monotonic() < until:
        if (status := process.poll()) is not None:
            raise SystemExit(status or 1)
        for scheme in ("http", "https"):
            try:
                with urllib.request.urlopen(f"{scheme}://{where}/-/ready", timeout=5, context=trusting):  # noqa: S310
                    return True
            except urllib.error.HTTPError as error:
                if error.code == 401:
                    return False
            except (ssl.SSLError, urllib.error.URLError, OSError):
                continue
        time.sleep(0.05)
    raise SystemExit(f"forewarn did not answer at {where} within {READY:g} s")


def wait_until_polled(said: int) -> None:
    """Wait until the log, from the byte ``said`` on, tells of the first poll."""
    until = time.monotonic() + READY
    while time.monotonic() < until:
        if re.search(rb"watching server|server down", (state() / "forewarn.log").read_bytes()[said:]):
            return
        time.sleep(0.05)
    raise SystemExit(f"forewarn did not poll its server within {READY:g} s")


def end_the_one_before() -> None:
    """End the Forewarn that is still running: an operator has one, and tries another."""
    end("forewarn.pid", signal.SIGTERM)


def end(file: str, how: signal.Signals) -> None:
    """End a process that was left running, and wait until it has gone."""
    path = state() / file
    if not path.exists():
        return
    pid = int(path.read_text())
    path.unlink()
    until = time.monotonic() + 20
    try:
        os.kill(pid, how)  # once: a second one may meet a program that no longer handles it
    except ProcessLookupError:
        return
    while time.monotonic() < until:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        if stat.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)


def faktory(_words: list[str], _options: Mapping[str, str]) -> int:
    """Run a server beside the one that is watched: the stand-in of Forewarn's demo, on ports of its own."""
    folder = state() / "faktory"
    (folder / "conf.d").mkdir(parents=True, exist_ok=True)
    command = (
        *(sys.executable, "-m", "exporter.demo.standin", "--bind", f"127.0.0.1:{port(9125)}"),
        *("--web-bind", f"127.0.0.1:{port(8126)}", "--storage-dir", str(folder), "--config-dir", str(folder)),
    )
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    (state() / "faktory.pid").write_text(str(os.getpid()))
    process.wait()
    return 0  # whoever ends it as it is meant to be


# --- the machine and its services -----------------------------------------------------------------------------------


def journalctl(_words: list[str], options: Mapping[str, str]) -> int:
    """Print what a server printed when it died, in the envelope that is asked for."""
    if "--follow" in options:
        signal.pause()
    for line in crash_log().splitlines():
        entry = {"__REALTIME_TIMESTAMP": "1763705331959000", "_PID": "7", "MESSAGE": line}
        print(json.dumps(entry) if options.get("-o") == "json" else f"Nov 21 06:08:51 host faktory[7]: {line}")
    return 0


def logs(words: list[str], _options: Mapping[str, str]) -> int:
    """Print the log of a container, or where it is."""
    if words[0] == "logs":
        sys.stdout.write(crash_log())
    elif words[0] == "inspect":
        print(root() / "var/log/faktory.log")
    return 0


def kubectl(words: list[str], options: Mapping[str, str]) -> int:
    """Print a log; of what is applied see that it is there."""
    for option in ("-f", "-k", "--filename"):
        if words[0] in {"apply", "create", "delete", "diff", "kustomize"} and option in options:
            there("kubectl", options[option], "kustomization.yaml" if option == "-k" else "")
    if words[0] == "kustomize":
        there("kubectl", words[1], "kustomization.yaml")
    return logs(words, options)


def docker(words: list[str], options: Mapping[str, str]) -> int:
    """Print a log; of what is built or started see that its file is there."""
    if words[0] == "compose":
        there("docker", options.get("-f", "compose.yaml"))
    if words[0] == "build":
        there("docker", options.get("-f", f"{words[-1]}/Dockerfile"))
    return logs(words, options)


def there(name: str, path: str, within: str = "") -> None:
    """Refuse a path that does not exist."""
    if path != "-" and not (Path(path) / within).exists():
        refuse(name, f"{Path(path) / within} does not exist")


def make(words: list[str], options: Mapping[str, str]) -> int:
    """See that each target exists."""
    makefile = Path(options.get("-C", "."), "Makefile").read_text()
    for word in words:
        if "=" not in word and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            refuse("make", f"there is no target {word}")
    return 0


def git(words: list[str], options: Mapping[str, str]) -> int:
    """Clone: the checkout that is here, under the name that the URL gives."""
    there("git", options.get("-C", "."))
    if words[0] != "clone":
        return 0
    name = words[2] if len(words) > 2 else words[1].rstrip("/").rpartition("/")[2].removesuffix(".git")
    checkout = root() / "home/you/forewarn"
    if not Path(name).exists():
        Path(name).symlink_to(checkout)
    return 0


def editor(words: list[str], _options: Mapping[str, str]) -> int:
    """Edit a file that is there, or may be made there."""
    if not Path(words[0]).parent.is_dir():
        refuse("editor", f"{words[0]} is in no folder that exists")
    return 0


def pgrep(_words: list[str], _options: Mapping[str, str]) -> int:
    """Print the id of a process that minds nothing."""
    print(os.environ["DOC_PREY"])
    return 0


def sudo(arguments: list[str], _options: Mapping[str, str]) -> int:
    """Run a command as who runs the tests."""
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-u":
            rest.pop(0)
        elif option not in {"-E", "-n"}:
            refuse("sudo", f"{option} is not known")
    os.execvp(rest[0], rest)  # noqa: S606 - a program of this test


def python(arguments: list[str], _options: Mapping[str, str]) -> int:
    """Run the Python of the tests; an environment that it makes has Forewarn in it already."""
    if arguments[:2] != ["-m", "venv"]:
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - a program of this test
    programs = Path(arguments[2], "bin")
    programs.mkdir(parents=True)
    for name in ("forewarn", "python", "pip"):
        (programs / name).symlink_to(Path(os.environ["PATH"], name))
    return 0


def pip(_words: list[str], options: Mapping[str, str]) -> int:
    """See that what is to be installed is named by a file that is there."""
    if "-r" in options:
        there("pip", options["-r"])
    return 0


def install(words: list[str], options: Mapping[str, str]) -> int:
    """Make a folder or copy a file, with its mode, but for the owner."""
    if "-d" in options:
        for word in words:
            Path(word).mkdir(parents=True, exist_ok=True)
        return 0
    *sources, target = words
    for source in sources:
        content = sys.stdin.buffer.read() if source == "/dev/stdin" else Path(source).read_bytes()
        path = Path(target, Path(source).name) if Path(target).is_dir() else Path(target)
        if path.exists():
            continue  # the operator has changed it already
        path.write_bytes(content)
        path.chmod(int(options.get("-m", "755"), 8))
    return 0


def exist(words: list[str], _options: Mapping[str, str]) -> int:
    """See that the files behind the first word exist."""
    for word in words[1:]:
        if not Path(word).exists():
            refuse("chown", f"{word} does not exist")
    return 0


def zstd(words: list[str], _options: Mapping[str, str]) -> int:
    """Print a packed file, unpacked."""
    there("zstd", words[0])
    sys.stdout.write(crash_log())
    return 0


def jq(_words: list[str], _options: Mapping[str, str]) -> int:
    """See that what comes is JSON."""
    print(json.dumps(json.load(sys.stdin)))
    return 0


def really(name: str, harmful: tuple[str, ...] = ()) -> Callable[[list[str], Mapping[str, str]], int]:
    """Return what runs the real program, but for what is harmful or needs another host."""

    def run(arguments: list[str], _options: Mapping[str, str]) -> int:
        if any(each in arguments for each in harmful):
            return 0
        if not (program := os.environ["DOC_REAL"]):
            refuse(name, "it is not installed")
        return subprocess.run([program, *arguments], check=False).returncode

    return run


def root() -> Path:
    """Return the folder that stands for /."""
    return Path(os.environ["DOC_ROOT"])


def crash_log() -> str:
    """Return what a server printed when it died."""
    return (root() / "var/log/faktory.log").read_text()


ANYTHING: Final = ("*",)
"""For a program that is run with whatever it is given, and so knows best what it understands."""

STAND_INS: Final[Mapping[str, Program]] = {
    "forewarn": Program("it would run until stopped", ANYTHING, does=forewarn),
    "faktory": Program(
        "the server that is watched runs already, and not everybody has another",
        values=("-b", "-w", "-e", "-l", "-d", "-c"),
        does=faktory,
    ),
    "systemctl": Program(
        "there is no systemd in a container",
        ("start", "stop", "restart", "reload", "status", "show", "edit", "enable", "disable", "daemon-reload", "cat"),
        values=("-p", "--property", "-n"),
        switches=("--now", "--no-pager"),
    ),
    "journalctl": Program(
        "there is no systemd in a container",
        values=(
            *("-u", "--unit", "--since", "-n", "--lines", "-o", "--output", "--vacuum-size", "--output-fields"),
            *("--after-cursor", "--boot", "--show-cursor"),
        ),
        switches=("--no-pager", "-k", "-f", "--follow", "--quiet", "--all", "--no-tail"),
        does=journalctl,
    ),
    "kubectl": Program(
        "there is no cluster: the manifests are validated by a test of their own",
        (
            *("logs", "get", "describe", "scale", "rollout restart", "rollout status", "apply", "create", "delete"),
            *("port-forward", "exec", "kustomize", "diff", "label", "edit", "wait"),
        ),
        values=(
            *("-n", "--namespace", "-l", "--selector", "--tail", "--replicas", "-c", "--container", "-f", "-k", "-o"),
            *("--from-file", "--from-literal", "--dry-run", "--for", "--timeout", "--filename"),
        ),
        switches=("--previous", "-A", "--all-namespaces", "--server-side", "-w", "--follow"),
        does=kubectl,
    ),
    "docker": Program(
        "there is no Docker in a container: the image and the files are built and validated by tests of their own",
        (
            *("logs", "inspect", "build", "run", "ps", "exec", "stop", "kill"),
            *("compose up", "compose down", "compose logs", "compose ps", "compose config", "compose exec"),
        ),
        values=(
            *("-f", "--file", "--tail", "--format", "-t", "--tag", "--name", "-p", "-v", "-e", "--build-arg", "-n"),
            *(
                "--network",
                "--user",
                "--volume",
                "--env",
                "--env-file",
                "--publish",
                "--tmpfs",
                "--signal",
                "--restart",
            ),
            *("--cap-drop", "--security-opt", "--pid", "--volumes-from"),
        ),
        switches=("-d", "--detach", "--rm", "--read-only", "--build", "--pull", "--wait", "--volumes", "--follow"),
        does=docker,
    ),
    "make": Program(
        "`make test` is what runs this; `make run`, `make setup` and `make generate` have tests of their own",
        values=("-C",),
        switches=("-s",),
        does=make,
    ),
    "git": Program(
        "what would be cloned is here", ("clone", "pull", "checkout"), values=("-C", "--depth", "--branch"), does=git
    ),
    "editor": Program("it waits for a person", does=editor),
    "pgrep": Program(
        "it would find the processes of others", values=("-f",), switches=("-x", "-xo", "-of"), does=pgrep
    ),
    "sudo": Program("it asks for a password", ANYTHING, does=sudo),
    "install": Program(
        "it gives files to users that are not there",
        values=("-m", "-o", "-g", "--mode", "--owner", "--group"),
        switches=("-d", "-D"),
        does=install,
    ),
    "python": Program("it would install what is here already", ANYTHING, does=python),
    "python3": Program("it would install what is here already", ANYTHING, does=python),
    "pip": Program(
        "it would install what is here already",
        ("install",),
        values=("-r",),
        switches=("--require-hashes", "--no-deps", "--no-build-isolation"),
        does=pip,
    ),
    "chown": Program("it gives files to users that are not there", switches=("-R",), does=exist),
    "prlimit": Program("it changes another process, which root alone may", values=("--pid", "--nofile")),
    "sysctl": Program("it changes the kernel of the machine", switches=("-w",)),
    "dmesg": Program("a container may not read it", switches=("-T",)),
    "last": Program("there is no such list in a container", values=("-n",), switches=("-x",)),
    "iostat": Program("it is of a package that few have", switches=("-x",)),
    "tcpdump": Program("it needs to be root", values=("-i", "-ni", "-nni", "-c")),
    "nc": Program("it asks another host", switches=("-vz", "-z", "-v", "-u")),
    "getent": Program("it asks for another host", ("hosts", "group", "passwd")),
    "jq": Program("it is of a package that few have", switches=("-r",), does=jq),
    "zstd": Program("it is of a package that few have", switches=("-dc", "-d", "-c"), does=zstd),
    "ss": Program("-K ends connections", ANYTHING, does=really("ss", ("-K",)), real=True),
    "openssl": Program("s_client asks another host", ANYTHING, does=really("openssl", ("s_client", "x509")), real=True),
    "amtool": Program(
        "there is no Alertmanager to ask", ANYTHING, does=really("amtool", ("--alertmanager.url",)), real=True
    ),
    "statsd_exporter": Program(
        "it would run until stopped: the mapping is tried with the real one by a test of its own",
        values=("--statsd.mapping-config", "--statsd.listen-udp", "--statsd.listen-tcp", "--web.listen-address"),
    ),
}
"""What stands for a program, by its name."""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
