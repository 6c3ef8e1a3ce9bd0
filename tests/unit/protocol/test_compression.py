"""Compressed bodies and results: what can be read, and no more of it than was agreed."""

import bz2
import gzip
import lzma
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fibo_client.celery.protocol.compression import compress, decompress
from fibo_client.errors import MessageError, ResultDecodeError

METHODS = {"application/x-gzip": zlib, "application/x-bz2": bz2, "application/x-lzma": lzma}
SIZE = 1 << 20


def refusal(data, content_type, max_bytes=SIZE):
    with pytest.raises(ResultDecodeError) as caught:
        decompress(data, content_type, max_bytes)
    return str(caught.value)


@pytest.mark.parametrize("name", ["gzip", "zlib", "application/x-gzip"])
def test_celerys_gzip_is_a_zlib_stream(name):
    data, content_type = compress(b"body" * 100, name)
    assert content_type == "application/x-gzip"
    assert zlib.decompress(data) == b"body" * 100


@pytest.mark.parametrize("name", ["bzip2", "lzma", "brotli", "zstd", "", "GZIP", None, 5, [], {}])
def test_no_other_compression_is_sent_because_not_every_worker_has_it(name):
    with pytest.raises(MessageError, match="use 'gzip'"):
        compress(b"body", name)


@given(st.binary(max_size=500), st.sampled_from(sorted(METHODS)))
def test_every_compression_of_the_standard_library_is_read(data, content_type):
    packed = METHODS[content_type].compress(data)
    assert decompress(packed, content_type, len(data)) == data
    if data:
        assert "max_decompressed_bytes" in refusal(packed, content_type, len(data) - 1)


@pytest.mark.parametrize("content_type", METHODS)
def test_a_bomb_is_not_unpacked_beyond_the_limit(content_type):
    bomb = METHODS[content_type].compress(bytes(16 * SIZE))
    assert len(bomb) < SIZE // 8
    assert f"more than {SIZE} bytes" in refusal(bomb, content_type)


def test_an_lzma_header_cannot_demand_gigabytes_of_memory():
    packed = bytearray(lzma.compress(b"x"))
    start, length = 12, (packed[12] + 1) * 4  # of the block's header, whose last four bytes are its checksum
    filter_id_and_size = packed.index(b"\x21\x01", start)
    packed[filter_id_and_size + 2] = 40  # 4 GiB
    packed[start + length - 4 : start + length] = zlib.crc32(packed[start : start + length - 4]).to_bytes(4, "little")
    assert lzma.LZMADecompressor().decompress(bytes(packed)) == b"x"
    assert "Memory usage limit" in refusal(bytes(packed), "application/x-lzma")


@pytest.mark.parametrize("content_type", METHODS)
def test_what_is_cut_short_is_broken(content_type):
    packed = METHODS[content_type].compress(bytes(range(256)) * 40)
    for length in (0, 1, len(packed) // 2, len(packed) - 1):
        said = refusal(packed[:length], content_type)
        assert "cut short" in said or "broken" in said


@pytest.mark.parametrize("content_type", METHODS)
@pytest.mark.parametrize("data", [b"rubbish" * 10, bytes(9), gzip.compress(b"a real gzip file", mtime=0)])
def test_what_is_compressed_otherwise_is_broken(content_type, data):
    said = refusal(data, content_type)
    assert "broken" in said or "cut short" in said


@pytest.mark.parametrize("content_type", ["application/zstd", "application/x-brotli", "gzip", "", "\ufffd", "x" * 9999])
def test_an_unknown_compression_is_named(content_type):
    said = refusal(b"", content_type)
    assert "cannot read" in said
    assert content_type[:50] in said
    assert len(said) < 200


@given(st.binary(max_size=300), st.sampled_from(sorted(METHODS)))
def test_any_bytes_are_read_or_are_a_decode_error(data, content_type):
    try:
        assert len(decompress(data, content_type, 1000)) <= 1000
    except ResultDecodeError:
        pass
