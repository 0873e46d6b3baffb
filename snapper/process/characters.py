"""Characters that cannot be seen: texts that differ only in these look the same."""

from __future__ import annotations

#: Letters and a symbol that look like nothing although they count as printable: fillers of Korean, Braille without
#: dots, and blanks of hieroglyphs.
BLANK = "\u115f\u1160\u2800\u3164\uffa0\U00013441\U00013442"


def is_visible(text: str) -> bool:
    """Return whether all characters of the text can be seen, or are spaces."""
    return text.isprintable() and not any(character in text for character in BLANK)
