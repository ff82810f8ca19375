"""Where each setting is given, and so what to write there to change it."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from exporter.check.finding import remedy
from exporter.settings import GLOBAL_FLAGS, SERVER_FLAGS

PASSWORD: Final = "PASSWORD"  # noqa: S105 - what stands in a remedy where the password must be written
"""What stands in a line where somebody has to write a password."""

NUMBER: Final = "N"
"""The same for a number."""


class Layer(IntEnum):
    """Where settings come from, the strongest first."""

    FLAG = 0
    ENVIRONMENT = 1
    FILE = 2


_FLAG_OF: Final[Mapping[str, str]] = {key: flag for flag, key in SERVER_FLAGS.items()}
_GLOBAL_FLAG_OF: Final[Mapping[str, str]] = {key: flag for flag, key in GLOBAL_FLAGS.items()}


class Places:
    """Knows which layer gives what. The settings are known to be right: they were loaded before."""

    def __init__(self, flags: Mapping[str, str | Sequence[str] | None], environ: Mapping[str, str]) -> None:
        """Take what the settings were loaded from: ``flags`` by their names without dashes, and ``environ``."""
        self._flags = {name: value for name, value in flags.items() if value}
        self._environ = {name: value for name, value in environ.items() if value}
        config = self._flags.get("config") or self._environ.get("FOREWARN_CONFIG")
        self.file = None if config is None else Path(str(config))
        self._document = _read(self.file)

    @property
    def layers(self) -> str:
        """Tell what gives settings at all, in words."""
        named: list[str] = []
        if self._flags.keys() - {"config"}:
            named.append("flags")
        if self._variables():
            named.append("the environment")
        if self.file is not None:
            named.append(str(self.file))
        return " and ".join(named) if len(named) < 3 else f"{named[0]}, {named[1]} and {named[2]}"

    def of_server(self, name: str) -> ServerPlaces:
        """Return the places of one server's settings."""
        return ServerPlaces(self, name)

    def set(self, key: str, value: str, prose: str) -> str:
        """Return the remedy that a setting of the sidecar itself, such as ``web.listen_address``, be ``value``."""
        flag = _GLOBAL_FLAG_OF[key]
        table, _, name = key.rpartition(".")
        given = self._document.get(table, {}) if table else self._document
        layer = self.layer_of_flag(flag, in_file=name in given)
        where = f"under [{table}]" if table else "above its first [table]"
        return self.line(self._usual() if layer is None else layer, flag, name, value, where, prose)

    def _usual(self) -> Layer:
        """Return the layer in which somebody who has set nothing of the kind yet would set it."""
        if self.file is not None:
            return Layer.FILE
        return Layer.FLAG if self._flags or not self._variables() else Layer.ENVIRONMENT

    def layer_of_flag(self, flag: str, *, in_file: bool) -> Layer | None:
        """Return the layer that gives what ``flag`` sets; ``None`` where none does."""
        if flag in self._flags:
            return Layer.FLAG
        if _variable(flag) in self._environ or (flag == "faktory.url" and self._own_url()):
            return Layer.ENVIRONMENT
        return Layer.FILE if in_file else None

    def line(self, layer: Layer, flag: str, key: str, value: str, where: str, prose: str) -> str:
        """Return the remedy that a setting be ``value`` in a layer; ``where`` it stands in the file."""
        if layer is Layer.FLAG:
            return remedy(_ended(prose), f"--{flag} {shlex.quote(value)}")
        if layer is Layer.ENVIRONMENT:
            variable = _variable(flag)
            own = self._own_url()
            if flag == "faktory.url" and variable not in self._environ and own:
                variable = own
            return remedy(_ended(prose), f"export {variable}={shlex.quote(value)}")
        shown = value if value == NUMBER else json.dumps(value, ensure_ascii=False)
        return remedy(f"{_ended(prose)} in {self.file}, {where}:", f"{key} = {shown}")

    def server_table(self, name: str) -> Mapping[str, Any]:
        """Return what the file says of one server."""
        tables = self._document.get("servers", [])
        return next((it for it in tables if it.get("name") == name), {})

    def text_of_flag(self, flag: str, layer: Layer) -> str:
        """Return what a flag or its variable says, which may hold a secret."""
        if layer is Layer.FLAG:
            return str(self._flags[flag])
        own = self._own_url() if flag == "faktory.url" and _variable(flag) not in self._environ else None
        return self._environ.get(own or _variable(flag), "")

    def has_own_password(self) -> bool:
        """Tell whether ``FAKTORY_PASSWORD`` is set."""
        return "FAKTORY_PASSWORD" in self._environ

    def _variables(self) -> bool:
        """Tell whether the environment gives anything."""
        known = (_variable(flag) for flag in (*GLOBAL_FLAGS, *SERVER_FLAGS))
        return any(it in self._environ for it in known) or self._own_url() is not None

    def _own_url(self) -> str | None:
        """Return which of Faktory's own variables holds its URL."""
        provider = self._environ.get("FAKTORY_PROVIDER")
        return provider or ("FAKTORY_URL" if "FAKTORY_URL" in self._environ else None)


class ServerPlaces:
    """The places of one server's settings."""

    def __init__(self, places: Places, name: str) -> None:
        self._places = places
        self._name = name
        self._table = places.server_table(name)
        self._flagged = name == "faktory"

    def set(self, key: str, value: str, prose: str, *, layer: Layer | None = None) -> str:
        """Return the remedy that ``key`` of this server be ``value``: where it is given now, else where its URL is.

        ``layer``: there instead.
        """
        flag = _FLAG_OF[key]
        found = self._layer(key) if layer is None else layer
        if found is None:
            found = self._layer("url")
        if found is None or not self._flagged:
            found = Layer.FILE
        shown = json.dumps(self._name, ensure_ascii=False)
        return self._places.line(found, flag, key, value, f"in the [[servers]] with name = {shown}", prose)

    def set_url(self, key: str, url: str, prose: str) -> str:
        """Return the remedy that a URL of this server be ``url``, with a place for the user and password it has now."""
        given = self._text(key)
        if "@" in given:
            user = given.partition("://")[2].rpartition("@")[0].partition(":")[0]
            scheme, _, rest = url.partition("://")
            url = f"{scheme}://{'USER' if user else ''}:{PASSWORD}@{rest.rpartition('@')[2]}"
        return self.set(key, url, prose)

    def set_password(self, file_key: str, url_key: str, prose: str) -> str:
        """Return the remedy that the password be another: that which is used now, or where none is, a new file's."""
        file = self._layer(file_key)
        url = self._layer(url_key) if "@" in self._text(url_key) else None
        own = Layer.ENVIRONMENT if url_key == "url" and self._flagged and self._places.has_own_password() else None
        strongest = min((it for it in (file, url, own) if it is not None), default=None)
        if file is not None and file == strongest:
            path = Path(self._text(file_key))
            if file is Layer.FILE and self._places.file is not None:
                path = self._places.file.parent / path
            return remedy(
                f"{prose}, in the file that is named now:", f"printf %s {PASSWORD} > {shlex.quote(str(path))}"
            )
        how = f"{prose}: write it into a file that only Forewarn can read, and name that"
        return self.set(file_key, f"/path/to/{file_key.replace('_', '-')}", how, layer=strongest)

    def _text(self, key: str) -> str:
        """Return what is given for ``key``, which may hold a secret; nothing where that is nothing."""
        layer = self._layer(key)
        if layer is None:
            return ""
        return str(self._table[key]) if layer is Layer.FILE else self._places.text_of_flag(_FLAG_OF[key], layer)

    def _layer(self, key: str) -> Layer | None:
        in_file = key in self._table
        if not self._flagged:
            return Layer.FILE if in_file else None
        return self._places.layer_of_flag(_FLAG_OF[key], in_file=in_file)


def _ended(prose: str) -> str:
    return prose if prose.endswith(("?", ".", ":")) else f"{prose}:"


def _variable(flag: str) -> str:
    return "FOREWARN_" + flag.upper().replace(".", "_").replace("-", "_")


def _read(file: Path | None) -> Mapping[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError, RecursionError):  # it was readable when the settings were loaded
        return {}
