"""The container image: what is in it, and that it does beside a server what Forewarn is there for."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from exporter import __version__
from tests.image import ROOT, SEPARATE, Image
from tests.servers import HOW_TO_HAVE_ONE, free_port, real_programs
from tests.test_repository import tracked

# The first test waits for all that is built.
pytestmark = pytest.mark.timeout(900)

HEALTHCHECK: Final = ROOT / "deploy" / "image" / "healthcheck.py"
UID: Final = 65532
NAME: Final = "localhost/forewarn"

NO_REAL = [] if real_programs() else [pytest.mark.skip(reason=HOW_TO_HAVE_ONE)]
PROGRAMS = [
    pytest.param("".join(real_programs()[-1:]), id="real", marks=[pytest.mark.real, *NO_REAL]),
    pytest.param("", id="stand-in"),
]


class Built:
    """The image, built once for all tests."""

    def __init__(self, image: Image) -> None:
        self.image = image
        # Both at once: fetching waits for the network, making the base for the processor.
        with ThreadPoolExecutor() as at_once:
            wheels = at_once.submit(image.fetch_wheels)
            self.base = image.make_base()
            wheels.result()
        image.build(self.base, NAME)
        self.told = image.inspect(NAME)
        self.config: dict[str, Any] = self.told["Docker"]["config"]
        _, self.root = image.container(NAME)

    def size(self, name: str) -> float:
        """Megabytes of an image with its base, not packed."""
        (told,) = json.loads(self.image.buildah("images", "--json", name))
        match = re.fullmatch(r"([0-9.]+) MB", told["size"])
        assert match, told
        return float(match[1])

    def beside(self, program: str) -> dict[str, Any]:
        """What is found beside a server, with no network but a loopback of their own."""
        container, root = self.image.container(NAME)
        order = {
            "buildah": self.image.command(),
            "container": container,
            "root": str(root),
            "uid": UID,
            "command": self.config["Entrypoint"] + self.config["Cmd"],
            "healthcheck": self.config["Healthcheck"]["Test"][1:],
            "signal": signal.Signals[self.config["StopSignal"]],
        }
        ended = subprocess.run(
            [*SEPARATE, "--net", sys.executable, "-m", "tests.image_scene", program, json.dumps(order)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert ended.returncode == 0, ended.stderr[-8000:]
        found: dict[str, Any] = json.loads(ended.stdout)
        return found


def layers(told: dict[str, Any]) -> list[str]:
    """The digest of each layer of an image. That of the image itself has the builder's own host name in it."""
    found: list[str] = told["Docker"]["rootfs"]["diff_ids"]
    return found


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    with Image() as image:
        yield Built(image)
    assert str(image.folder) not in Path("/proc/self/mountinfo").read_text()
    assert not image.folder.exists()


def test_the_image_says_how_it_is_run(built: Built) -> None:
    config = built.config
    assert (config["Entrypoint"], config["Cmd"]) == (["forewarn"], ["run"])
    assert config["User"] == f"{UID}:{UID}"
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"].keys() == {"9386/tcp"}
    assert config["Volumes"].keys() == {"/var/lib/forewarn"}
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_image_holds_nothing_of_how_it_was_built(built: Built) -> None:
    root = built.root
    assert not (root / "src").exists()
    assert not (root / "tools").exists()
    assert not list((root / "opt" / "forewarn").rglob("pip"))
    assert not (root / "etc" / "pip.conf").exists()
    assert "/wheels" not in json.dumps(built.told)


def test_the_image_holds_the_sources_of_this_repository_and_nothing_else_of_it(built: Built) -> None:
    root = built.root
    (packages,) = root.glob("opt/forewarn/lib/python3.*/site-packages")
    shipped = {path.relative_to(packages) for path in (packages / "exporter").rglob("*") if path.is_file()}
    ours = {path.relative_to(ROOT) for path in tracked() if path.is_relative_to(ROOT / "exporter")}
    assert shipped == {path for path in ours if (built.image.context / path).exists()}


def test_the_same_files_give_the_same_layers(built: Built) -> None:
    built.image.build(built.base, "localhost/again")
    assert layers(built.image.inspect("localhost/again")) == layers(built.told)
    assert len(layers(built.told)) == len(layers(built.image.inspect(built.base))) + 1


def test_the_documentation_tells_its_size(built: Built) -> None:
    told = re.search(r"about (\d+) MB on top of its base", (ROOT / "docs" / "deploy.md").read_text())
    assert told
    size = built.size(NAME) - built.size(built.base)
    assert abs(int(told[1]) - size) <= 0.1 * size, f"it is {size:.0f} MB"


@pytest.mark.parametrize("program", PROGRAMS)
def test_beside_a_server_without_a_network_it_tells_a_crash(built: Built, program: str) -> None:
    found = built.beside(program)
    assert found["interfaces"] == ["lo"]
    # What it runs as.
    assert found["command line"][1:] == ["/opt/forewarn/bin/forewarn", "run"]
    assert found["uids"] == [str(UID)]
    assert int(found["capabilities"], 16) == 0
    # Its root.
    assert found["root"].split(",")[0] == "ro"
    assert "Read-only file system" in found["written as root"][1]
    assert found["written"][0] != 0
    assert found["compiled anew"] == []
    # What it knows by each thing that it shares with the server.
    assert found["up"] == 1
    assert found["busy"] == 1
    assert found["limit"] == 3
    assert found["sockets"] >= 1
    assert found["peers"] >= 1
    # What it is there for.
    assert found["crashes"] == {"signal" if program else "concurrent-map": 1}
    # How it lives and ends.
    assert found["before"][0] != 0
    assert found["healthy"][0] == 0, found["healthy"]
    assert found["status"] == 0
    assert found["state"] == [0, "state.json\n"]


# --- the health check, alone --------------------------------------------------------------------------------------


def check(port: int) -> int:
    """Run it as the image does, and return its exit status."""
    environment = {"FOREWARN_WEB_LISTEN_ADDRESS": f":{port}"}
    return subprocess.run([sys.executable, "-S", HEALTHCHECK], env=environment, timeout=60).returncode


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Someone at a port, who does one thing with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def says(text: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(text)

    return answer


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "403 Forbidden"])
def test_who_answers_lives_also_where_it_turns_one_away(status: str) -> None:
    with answering(says(f"HTTP/1.1 {status}\r\n\r\n".encode())) as port:
        assert check(port) == 0


def test_who_wants_tls_and_a_certificate_lives() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with answering(lambda it: context.wrap_socket(it, server_side=True).close()) as port:
        assert check(port) == 0


def test_who_is_about_to_end_does_not_live() -> None:
    with answering(says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")) as port:
        assert check(port) == 1


def test_who_is_not_there_does_not_live() -> None:
    assert check(free_port()) == 1


def test_who_says_nothing_does_not_live() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        assert check(hung.getsockname()[1]) == 1
