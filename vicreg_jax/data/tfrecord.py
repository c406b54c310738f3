"""TFRecord files, read by index without TensorFlow.

A record is its length (uint64), the length's checksum (uint32), the data, and the data's checksum (uint32), all in
little-endian order. Checksums are masked CRC-32C (tensorflow/core/lib/io/record_writer.cc, core/lib/hash/crc32c.h).
Those of the lengths are checked when a file is scanned. Those of the data identify the data; checking them for every
image would take longer than to read it, and Pillow notices most damage.
"""

import os
from pathlib import Path

import numpy as np

from vicreg_jax.data.collection import NO_LABEL
from vicreg_jax.data.prepared import damaged
from vicreg_jax.data.records import RECORD

TFRECORD_VERSION = "TFRecord 1"  # of an index
# The end of a record, and the beginning of the next one.
_FRAME = np.dtype([("data_checksum", "<u4"), ("size", "<u8"), ("size_checksum", "<u4")])


def scan_tfrecord(path: Path) -> np.ndarray:
    """Finds the records of a file; reads 16 bytes of each.

    Returns:
        See `vicreg_jax.data.records.Scan`; the digest is the data's checksum.

    Raises:
        ValueError: the file is truncated or damaged, or cannot be read.
    """
    try:
        content, is_whole = _read_frames(path)
    except OSError as error:
        raise damaged(path, error.strerror) from error
    count = len(content) // _FRAME.itemsize
    frames = np.frombuffer(content.ljust((count + 1) * _FRAME.itemsize, b"\0"), _FRAME)
    sizes = frames["size"][:count]
    wrong = np.flatnonzero(masked_crc32c(sizes) != frames["size_checksum"][:count])
    if len(wrong):
        raise damaged(path, f"damaged at record {wrong[0]}")
    if not is_whole:
        raise damaged(path, "truncated")
    records = np.zeros(count, RECORD)
    records["offset"] = np.cumsum(sizes + _FRAME.itemsize) - sizes - 4
    records["size"] = sizes
    records["digest"] = frames["data_checksum"][1:]
    records["label"] = NO_LABEL
    return records


def _read_frames(path: Path) -> tuple[bytes, bool]:
    """What lies before, between and after the data of the records, and whether the file ends with a record."""
    frames = bytearray()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file_size = os.fstat(descriptor).st_size
        frame = bytes(4) + os.pread(descriptor, 12, 0)  # the first frame ends no record
        end = 0  # of the record before
        while len(frame) == _FRAME.itemsize:
            frames += frame
            end += int.from_bytes(frame[4:12], "little") + _FRAME.itemsize
            if end > file_size:
                return bytes(frames), False
            frame = os.pread(descriptor, _FRAME.itemsize, end - 4)
        return bytes(frames + frame), end == file_size
    finally:
        os.close(descriptor)


def _crc32c_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _crc32c_table()


def masked_crc32c(words: np.ndarray) -> np.ndarray:
    """The masked CRC-32C of each 64-bit word.

    Args:
        words: uint64 `[n]`.

    Returns:
        uint32 `[n]`.
    """
    checksums = np.full(len(words), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(-1, 8).T:
        checksums = _TABLE[(checksums ^ column) & 0xFF] ^ (checksums >> 8)
    checksums = ~checksums
    return ((checksums >> 15) | (checksums << 17)) + np.uint32(0xA282EAD8)
