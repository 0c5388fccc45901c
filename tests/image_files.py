"""Image files that Pillow does not write: with EXIF blocks of any sort, and with 16 bits a channel."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 24
ORIENTATION = 0x0112
KINDS_WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF", "deflated TIFF")
# Texts, resolution, directories below, XMP, IPTC, Photoshop's own, the colour profile, the thumbnail, nodata.
TAGS = (
    0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x012D, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825, 0xA005,
    0x02BC, 0x83BB, 0x8649, 0x8773, 0x0201, 0x0202, 0x014A, 0x9003, 0x927C, 0x9286, 42113,
)  # fmt: skip
_ROWS, _COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PIXELS = np.stack([_COLUMNS * 7, _ROWS * 9, _COLUMNS + _ROWS], axis=2).astype(np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def entry(order, tag, kind, count, value):
    """An entry of a directory; a small value stands at the beginning of the four bytes, a large one is an offset."""
    inline = {1: "BBBB", 3: "HH", 6: "BBBB", 8: "HH"}.get(kind if count * {3: 2, 8: 2}.get(kind, 1) <= 4 else 4, "I")
    limit = {4: 0xFF, 2: 0xFFFF}.get(len(inline), 0xFFFFFFFF)
    return struct.pack(order + "HHI" + inline, tag, kind, count, *[value & limit] * len(inline))


def exif(*found, order="<", start=8, count=None, behind=b""):
    """A block of EXIF with the entries (tag, type, count, value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    head += struct.pack(order + "H", len(found) if count is None else count)
    return head + b"".join(entry(order, *one) for one in found) + b"\0\0\0\0" + behind


def with_exif(kind, block):
    """The picture in a file of this kind with a block of EXIF."""
    return encode(Image.fromarray(PIXELS), kind, exif=b"Exif\0\0" + block)


def tiff(pixels, *found, order="<", compressed=False, planes=False, photometric=None, behind=b""):
    """A TIFF of an array [h, w] or [h, w, c], with further entries (tag, type, count, value) in its directory."""
    pixels = np.atleast_3d(pixels)
    height, width, channels = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    pixels = pixels.astype(pixels.dtype.newbyteorder(order))
    strips = [pixels[:, :, one].tobytes() for one in range(channels)] if planes else [pixels.tobytes()]
    strips = [zlib.compress(strip) if compressed else strip for strip in strips]
    data = bytearray(8)

    def put(numbers, code):
        """Where some numbers stand, or the only one."""
        if len(numbers) == 1:
            return numbers[0]
        data.extend(b"\0" * (len(data) % 2))
        at = len(data)
        data.extend(struct.pack(f"{order}{len(numbers)}{code}", *numbers))
        return at

    offsets = []
    for strip in strips:
        offsets.append(len(data))
        data.extend(strip)
    own = {
        256: (3, 1, width), 257: (3, 1, height), 258: (3, channels, put([8 * pixels.itemsize] * channels, "H")),
        259: (3, 1, 8 if compressed else 1),
        262: (3, 1, (2 if channels > 2 else 1) if photometric is None else photometric),
        273: (4, len(strips), put(offsets, "I")), 277: (3, 1, channels), 278: (3, 1, height),
        279: (4, len(strips), put([len(strip) for strip in strips], "I")), 284: (3, 1, 2 if planes else 1),
        339: (3, channels, put([kind] * channels, "H")),
    }  # fmt: skip
    if channels == 4:
        own[338] = (3, 1, 2)
    every = sorted([*((tag, *rest) for tag, rest in own.items()), *(one for one in found if one[0] not in own)])
    data.extend(b"\0" * (len(data) % 2))
    data[:8] = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", len(data))
    data += struct.pack(order + "H", len(every))
    data += b"".join(entry(order, *one) for one in every)
    return bytes(data) + b"\0\0\0\0" + behind


def chunk(name, data):
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels, *chunks, interlaced=False):
    """A PNG with 16 bits of an array uint16 [h, w] or [h, w, 2 to 4], and further chunks before the pixels."""
    pixels = np.atleast_3d(pixels).astype(">u2")
    height, width, channels = pixels.shape
    passes = [pixels]
    if interlaced:  # Adam7
        steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        passes = [pixels[y::down, x::right] for x, y, right, down in steps]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body


def some_bytes(random, most):
    return bytes(random.randint(0, 255) for _ in range(random.randint(0, most)))


def any_entries(random, end):
    """Entries of any sort; about half of the time there is an orientation that counts."""
    made = [(ORIENTATION, 3, 1, random.randint(1, 8))] if random.randint(0, 1) else []
    for _ in range(random.randint(0, 8)):
        tag = random.choice([ORIENTATION, *TAGS, random.randint(0, 65535)])
        kind = random.choice([3, random.randint(1, 13), random.randint(0, 20), random.randint(0, 65535)])
        count = random.choice([1, 1, random.randint(0, 12), random.randint(0, 2**32 - 1)])
        value = random.choice([random.randint(0, 9), random.randint(0, end), random.randint(0, 2**32 - 1)])
        made.append((tag, kind, count, value))
    return sorted(made)


def any_exif(random):
    """A block of EXIF with any entries and anything behind it, perhaps cut off; or any bytes."""
    if random.randint(0, 9) == 0:
        return some_bytes(random, 60)
    found = any_entries(random, 200)
    block = exif(
        *found,
        order=random.choice("<>"),
        start=random.choice([8, 8, 8, random.randint(0, 40)]),
        count=random.choice([len(found), len(found), random.randint(0, 65535)]),
        behind=some_bytes(random, 60),
    )
    return block[: random.randint(0, len(block))] if random.randint(0, 7) == 0 else block


def any_file(random, kind):
    """The picture in a file of this kind, with EXIF of any sort."""
    if "TIFF" not in kind:
        return with_exif(kind, any_exif(random))
    found, order = any_entries(random, 3000), random.choice("<>")
    return tiff(PIXELS, *found, order=order, compressed=kind != "TIFF", behind=some_bytes(random, 60))
