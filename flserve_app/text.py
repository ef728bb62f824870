"""Text from elsewhere: made safe to show, or judged fit to keep.

Whatever a client, a server, a file of somebody else's or an exception says may carry terminal escapes, line breaks,
direction marks or megabytes. Rules:
- What is shown (a log, a table, an error) goes through `plain`, once, where it comes in.
- What is kept as a name (a model, a tensor, a metric, an identity) has to be `is_plain`, or it is refused: a name
  that was changed would be another name.
- A client's identity also names files and orders clients: `is_identity` is its one grammar, for whoever says, hears or
  stores one.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

SHOWN = 300  # characters of somebody else's text that are worth a line
NAMED = 200  # characters that a name may have
_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# CSI, OSC and the other strings (ended by BEL or ST, or cut off), then any two-character escape.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)


def plain(text: object, limit: int = SHOWN) -> str:
    """Return a text as one line of at most `limit` printable characters.

    Terminal escapes go with their arguments; white space of any kind becomes one space; control characters, direction
    marks, lone surrogates and what Unicode has not assigned are dropped; what is too long is cut and ends in an
    ellipsis. An object that cannot be made text is shown by its type's name: nothing is raised.
    """
    said = _said(text)
    # Escapes are looked for in what could be shown at all: text of megabytes must not cost as much.
    found = _ESCAPES.sub("", said[: 8 * limit])
    line = "".join(" " if character.isspace() else character for character in found if _shows(character))
    line = " ".join(line.split())
    cut = len(line) > limit or len(said) > 8 * limit
    return line[: limit - 1].rstrip() + "…" if cut else line


def is_plain(text: str, limit: int = NAMED) -> bool:
    """Whether a text can stand as a name: 1 to `limit` printable characters, spaces inside only."""
    if not 0 < len(text) <= limit or text != text.strip():
        return False
    return all(character == " " or (not character.isspace() and _shows(character)) for character in text)


def is_identity(text: object) -> bool:
    """Whether something can name a client: 1 to 128 ASCII letters, digits, dots, dashes, underscores, no sign first."""
    return isinstance(text, str) and _IDENTITY.fullmatch(text) is not None


def share(part: int, whole: int) -> str:
    """Return a part of a whole in percent, for people."""
    return "-" if whole == 0 else f"{100 * part / whole:.1f} %"


def readable_bytes(count: int) -> str:
    """Return a number of bytes in a unit that suits it, for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


def counted(count: int, noun: str) -> str:
    """Return how many there are of something, for people: `1 blob`, `2 blobs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that every reader takes: what JSON has no number for is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def type_name(value: object) -> str:
    """Return the name of a value's type, whatever its class does to be asked for it."""
    return str(type.__dict__["__name__"].__get__(type(value)))


def _said(text: object) -> str:
    try:
        said = str(text)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 somebody else's code, run to show what is often an error already
        return type_name(text)
    # Of a subclass each method may be somebody else's, too.
    return str.__str__(said)


def _shows(character: str) -> bool:
    return character.isspace() or unicodedata.category(character)[0] != "C"
