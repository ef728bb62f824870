"""Values as Hydra's grammar reads them back."""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"(\\*)(?:'|\Z)")


def quoted(text: str) -> str:
    """Return a text as a quoted value: backslashes count only before a quote."""
    return "'" + _ESCAPED.sub(lambda found: found[1] * 2 + ("\\'" if found[0].endswith("'") else ""), text) + "'"
