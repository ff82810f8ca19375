"""A value that must never be seen: passwords and tokens."""

from __future__ import annotations

import hmac
from typing import NoReturn

from exporter.model import MAX_ERROR


class Secret:
    """Holds a secret text so that no log, error, page or dump can show it by accident.

    ``str``, ``repr`` and ``format`` give ``***``; pickling and copying into serialised forms are refused.
    Only :meth:`reveal` gives the text, at the place that sends it.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Return the secret text itself."""
        return self.__text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(
            self.__text.encode(errors="surrogatepass"), other.__text.encode(errors="surrogatepass")
        )

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        message = "a secret is not to be serialised"
        raise TypeError(message)


def without_credentials(text: str, *, cut: bool = False) -> str:
    """Return ``text`` without the user and password of any URL in it.

    ``cut``: it may go on. Its end may be a password then, which no ``@`` marks as one, and is left out too.
    """
    *words, last = text.split(" ")
    return " ".join([*map(_without, words), _without(last, cut=cut)])


def tellable(message: str) -> str:
    """Return what may be told to anybody of the message of an error, which is cut off where it is as long as may be."""
    return without_credentials(message, cut=len(message) >= MAX_ERROR)[:MAX_ERROR]


def _without(word: str, *, cut: bool = False) -> str:
    head, slashes, rest = word.partition("//")
    _, at, host = rest.rpartition("@")
    if slashes and cut:
        return f"{head}//***"
    return f"{head}//***@{host}" if slashes and at else word
