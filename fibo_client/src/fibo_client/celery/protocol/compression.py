"""Compressed bodies and results.

What Celery calls ``gzip`` is a zlib stream, not a gzip file. Source: ``kombu.compression``.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Final, Protocol

from fibo_client.errors import MessageError, ResultDecodeError, ResultInflatesError
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Callable


class _Decompressor(Protocol):
    """The interface that the decompressors of zlib, bz2 and lzma share."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


ZLIB: Final = "application/x-gzip"
_NAMES: Final = {"gzip": ZLIB, "zlib": ZLIB, ZLIB: ZLIB}
_LZMA_MEMORY: Final = 128 * 1024 * 1024  # Twice what the highest preset needs; a hostile header may ask for 4 GiB.
_DECOMPRESSORS: Final[dict[str, Callable[[], _Decompressor]]] = {
    ZLIB: zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY),
}


def compress(body: bytes, name: str) -> tuple[bytes, str]:
    """Compress a message body.

    Args:
        body: The serialized body.
        name: ``gzip`` or ``zlib``, which mean the same in Celery.

    Returns:
        The compressed body, and the content type for the message's headers.

    Raises:
        MessageError: The name is another one. Workers may not have that compression installed.
    """
    content_type = _NAMES.get(name) if isinstance(name, str) else None
    if content_type is None:
        raise MessageError(f"compression={short_repr(name)} is not supported; use 'gzip', which every worker can read")
    return zlib.compress(body), content_type


def decompress(data: bytes, content_type: str, max_bytes: int) -> bytes:
    """Decompress a result of at most `max_bytes`.

    Args:
        data: The compressed bytes.
        content_type: Celery's name for the compression, such as ``application/x-gzip``.
        max_bytes: The most bytes that the result may have when decompressed.

    Returns:
        The decompressed bytes.

    Raises:
        ResultInflatesError: The result has more bytes.
        ResultDecodeError: The compression is unknown, or the data is broken or cut short.
    """
    make = _DECOMPRESSORS.get(content_type)
    if make is None:
        raise ResultDecodeError(f"it is compressed as {short_repr(content_type)}, which this client cannot read")
    decompressor = make()
    try:
        plain = decompressor.decompress(data, max_bytes + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise ResultDecodeError(f"its compressed bytes are broken: {error}") from error
    except MemoryError:
        raise ResultDecodeError("there is not enough memory to decompress it") from None
    if len(plain) > max_bytes:
        raise ResultInflatesError(f"it has more than {max_bytes} bytes when decompressed (max_decompressed_bytes)")
    if not getattr(decompressor, "eof", True):
        raise ResultDecodeError("its compressed bytes are cut short")
    return plain
