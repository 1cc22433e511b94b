"""Names in zips. A zip says whether a name is UTF-8; of all other names it does not say in which code page they are.

The rule depends on the names alone and not on the machine, so that a data set has the same classes everywhere:

1. A Unicode name in the extra field 0x7075, or the flag for UTF-8, decides.
2. If every undeclared name is valid UTF-8, all are: macOS and many programs leave the flag out.
3. Else they are in the first code page of CODE_PAGES in which all of them consist of letters, with no two alphabets in
   one word. Windows writes the code page of the user's country; a wrong one shows as symbols, or as mixed alphabets.
4. Else they are in code page 437, as the standard says.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

STANDARD = "cp437"
_UTF8_FLAG, _UNICODE_PATH = 0x800, 0x7075
MAX_EXAMINED = 500  # names
_WORD = re.compile(r"[^\W\d_]+")


class _CodePage(NamedTuple):
    """A code page of Windows, and the alphabets that its letters beyond ASCII belong to, as Unicode names them."""

    name: str
    alphabets: tuple[str, ...]


CODE_PAGES = (
    _CodePage("cp437", ("LATIN",)),
    _CodePage("cp850", ("LATIN",)),
    _CodePage("cp852", ("LATIN",)),
    _CodePage("cp866", ("CYRILLIC",)),
    _CodePage("cp932", ("HIRAGANA", "KATAKANA", "CJK")),
    _CodePage("cp949", ("HANGUL",)),
    _CodePage("gbk", ("CJK",)),
    _CodePage("cp950", ("CJK",)),
    _CodePage("cp737", ("GREEK",)),
)
# Chinese in gbk reads as rare characters in cp932 and the reverse: the code page of most common characters is taken.
_COMMON_LEAD_BYTES = {"cp932": range(0x88, 0x98), "cp949": range(0xB0, 0xC9), "gbk": range(0xB0, 0xD8)}
_COMMON_LEAD_BYTES["cp950"] = range(0xA4, 0xC7)


def decode_names(infos: Sequence[zipfile.ZipInfo]) -> tuple[list[str], str]:
    """The name of every member, and a sentence about what was assumed; empty if nothing was.

    Slashes are as the zip has them; zipfile must have read the names as code page 437, its default.
    """
    names = [_declared_name(info) for info in infos]
    raw = {i: infos[i].orig_filename.encode("cp437", "replace") for i, name in enumerate(names) if name is None}
    undeclared = {i: data for i, data in raw.items() if not data.isascii()}
    encoding = _encoding_of(sorted(set(undeclared.values()))) if undeclared else STANDARD
    decoded = {i: data.decode(encoding if i in undeclared else "ascii", "replace") for i, data in raw.items()}
    all_names = [decoded[i] if name is None else name for i, name in enumerate(names)]
    if not undeclared or encoding == "utf-8":
        return all_names, ""
    example = decoded[next(iter(undeclared))]
    return all_names, f"names in no declared encoding are read as {encoding}, such as '{example}'"


def _declared_name(info: zipfile.ZipInfo) -> str | None:
    """The name if the zip says how it is encoded, else None."""
    unicode_name = _unicode_path(info)
    if unicode_name is not None:
        return unicode_name
    return info.orig_filename if info.flag_bits & _UTF8_FLAG else None


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The name in the extra field of Info-ZIP, if it belongs to the name that the zip has (APPNOTE.TXT 4.6.9)."""
    extra = info.extra
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437", "replace")
            if int.from_bytes(field[1:5], "little") == zlib.crc32(name):
                return field[5:].decode("utf-8", "replace")
    return None


def _encoding_of(names: list[bytes]) -> str:
    """The encoding that all names are most likely in; see the rule above."""
    if _all_decode(names, "utf-8"):
        return "utf-8"
    sample = names[:: -(-len(names) // MAX_EXAMINED)]
    possible = [
        page.name
        for page in CODE_PAGES
        if _all_decode(names, page.name) and all(_is_plausible(name.decode(page.name), page) for name in sample)
    ]
    if not possible:
        return STANDARD
    if possible[0] not in _COMMON_LEAD_BYTES:
        return possible[0]
    east_asian = [page for page in possible if page in _COMMON_LEAD_BYTES]
    return max(east_asian, key=lambda page: _common_fraction(sample, page))  # of equals, `max` takes the first


def _all_decode(names: list[bytes], encoding: str) -> bool:
    try:
        for name in names:
            name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_plausible(text: str, page: _CodePage) -> bool:
    """Whether all beyond ASCII are letters of the code page's alphabets, in words as people write them."""
    if not all(character.isascii() or _alphabet(character) in page.alphabets for character in text):
        return False
    for word in _WORD.findall(text):
        if word.isascii():
            continue
        if word[1:] != word[1:].lower() and word != word.upper():
            return False  # a capital within a word
        if page.alphabets in (("CYRILLIC",), ("GREEK",)) and any(letter.isascii() for letter in word):
            return False
    return True


def _alphabet(character: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN; empty for symbols."""
    if not unicodedata.category(character).startswith("L") or "HALFWIDTH" in unicodedata.name(character, ""):
        return ""
    return unicodedata.name(character, "").split(" ")[0].split("-")[0]


def _common_fraction(names: list[bytes], page: str) -> float:
    """The fraction of characters beyond ASCII that are among the common ones of a code page."""
    leads = [character.encode(page)[0] for name in names for character in name.decode(page) if not character.isascii()]
    kana = [lead for lead in leads if page == "cp932" and lead in (0x82, 0x83)]
    return (sum(lead in _COMMON_LEAD_BYTES[page] for lead in leads) + len(kana)) / len(leads)
