"""The header of a plain JPEG file. Pillow reads any, but takes a tenth of the time of decoding for it."""

import struct

_START = b"\xff\xd8"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive
_SCAN = 0xDA  # begins the pixels
_METADATA = 0xE1  # EXIF or XMP
_HAVE_A_LENGTH = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a gray or color JPEG file of 8 bits, without EXIF and XMP, which may say that it is turned.

    None for all other files, and for those with unusual headers.
    """
    size, position = None, 2
    if not data.startswith(_START):
        return None
    while position + 10 <= len(data) and data[position] == 0xFF and data[position + 1] in _HAVE_A_LENGTH:
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker == _SCAN:
            return size
        if marker == _METADATA:
            return None
        if marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            if bits != 8 or components not in (1, 3) or not height * width:
                return None
            size = width, height
        position += 2 + length
    return None
