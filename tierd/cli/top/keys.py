"""What was typed: bytes of a terminal as names of keys."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from types import MappingProxyType

ESC = "esc"
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "\x1b": ESC,
        "\r": "enter",
        "\n": "enter",
        "\t": "tab",
        "\x7f": "backspace",
        "\x08": "backspace",
        "\x0c": "redraw",
        "\x15": "clear",
        "\x1b[A": "up",
        "\x1bOA": "up",
        "\x1b[B": "down",
        "\x1bOB": "down",
        "\x1b[5~": "page up",
        "\x1b[6~": "page down",
        "\x1b[H": "home",
        "\x1bOH": "home",
        "\x1b[1~": "home",
        "\x1b[F": "end",
        "\x1bOF": "end",
        "\x1b[4~": "end",
        "\x1b[Z": "shift tab",
    }
)
# A key of its own (CSI, SS3), Esc before something else, or a character.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[@-~]|\x1b(?=[^\[O])|[^\x1b]", re.DOTALL)
_LONGEST = 32


class Keys:
    """Makes keys of bytes; what may be the beginning of a key is kept until the rest of it comes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def is_waiting(self) -> bool:
        """Whether something was kept: Esc, or the beginning of a longer key."""
        return bool(self._rest)

    def feed(self, typed: bytes) -> list[str]:
        """The keys that are complete: characters as they are, other keys by name; unknown ones are left out."""
        text, at, found = self._rest + self._decoder.decode(typed), 0, list[str]()
        while at < len(text) and (key := _KEY.match(text, at)) is not None:
            found.append(key[0])
            at = key.end()
        self._rest = text[at:]
        if len(self._rest) > _LONGEST:
            self._rest = ""
        return [name for key in found if (name := _name(key))]

    def flush(self) -> list[str]:
        """What was kept, if nothing more came for a while: a single Esc is the key of that name."""
        rest, self._rest = self._rest, ""
        return [ESC] if rest == "\x1b" else []


def _name(key: str) -> str:
    return _NAMES.get(key, key if len(key) == 1 and key.isprintable() else "")
