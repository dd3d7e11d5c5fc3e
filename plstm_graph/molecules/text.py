"""Text files as people have them: compressed or not, in any of the usual encodings."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

from plstm_graph.molecules.errors import InputError

_HEAD = 1 << 16
#: Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: What a compressed or binary file begins with.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the table as CSV",
    b"BZh": "compressed by bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it, or compress it with gzip",
    b"SQLite format 3": "a database; export the table as CSV",
}


def check_file(path: str | Path, option: str = "input") -> Path:
    """A file that exists and holds something."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"expected {option} as a file, got the folder {path}; name a file in it")
    if not path.is_file():
        raise InputError(f"expected {option} as a file, got {path}, which does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"expected {option} with molecules, got {path}, which is empty")
    return path


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if it is compressed by gzip, whatever its name."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"expected input as a file that can be read, got {error}") from error
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"expected {path} as text, got {what}")
    return gzip.open(path, "rb") if head.startswith(b"\x1f\x8b") else open(path, "rb")


def find_encoding(path: Path, encoding: str | None = None) -> tuple[str, str | None]:
    """The encoding of a file, and a note where it had to be guessed.

    The whole file is read, so that what follows cannot fail in the middle of it.

    Args:
        path: of the file.
        encoding: name of the encoding, where it is known.
    """
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise InputError(
                f"expected encoding as a name such as utf-8, utf-16 or cp1252, got {encoding!r}"
            ) from None
        place = _first_bad(path, encoding)
        if place is not None:
            raise InputError(
                f"expected {path} in {encoding}, got other bytes near byte {place}; pass the "
                f"file's own --encoding, or leave it out to have it found"
            )
        return encoding, None
    with open_bytes(path) as file:
        head = _read(file, path, _HEAD)
    if not head:
        raise InputError(f"expected input with molecules, got {path}, which unpacks to nothing")
    found, note = _by_head(path, head), None
    place = _first_bad(path, found)
    if place is not None and found == "utf-8":
        found, note = "cp1252", f"{path} is not UTF-8 near byte {place}: read as cp1252"
        place = _first_bad(path, found)
    if place is not None:
        raise InputError(
            f"expected {path} in UTF-8, UTF-16 or cp1252, got bytes near byte {place} that are "
            f"none of these; save it as UTF-8, or pass --encoding"
        )
    return found, note


def _by_head(path: Path, head: bytes) -> str:
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if b"\0" not in head:
        return "utf-8"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if min(even, odd) * 20 <= max(even, odd) > len(head) // 8:
        return "utf-16-le" if odd > even else "utf-16-be"
    raise InputError(f"expected {path} as text, got a binary file (it holds zero bytes)")


def _first_bad(path: Path, encoding: str) -> int | None:
    """Near which byte the file is not in an encoding."""
    decoder, place = codecs.getincrementaldecoder(encoding)(), 0
    with open_bytes(path) as file:
        while block := _read(file, path, 1 << 20):
            try:
                decoder.decode(block)
            except UnicodeError as error:
                return place + getattr(error, "start", 0)
            place += len(block)
    try:
        decoder.decode(b"", final=True)
    except UnicodeError:
        return place
    return None


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"expected {path} as a complete file, got one that cannot be unpacked ({error}); copy "
            f"or download it again"
        ) from error


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The text of a file; line ends stay as they are."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline="")
