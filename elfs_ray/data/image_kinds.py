"""The kinds of image that are read and written, in one table: what inputs look for and exports name files by.

A file whose ending stands neither here nor among `OTHER_ENDINGS` may be an image: only its bytes tell.
"""

import io
import warnings
from typing import NamedTuple

from PIL import Image


class ImageKind(NamedTuple):
    """One kind of image.

    Attributes:
        name: Pillow's word for it (`Image.format`).
        endings: of its files, lower case and without the dot; the first is the one that exports use.
    """

    name: str
    endings: tuple[str, ...]


IMAGE_KINDS = (
    ImageKind("JPEG", ("jpg", "jpeg", "jpe", "jfif")),
    ImageKind("MPO", ("jpg", "mpo")),
    ImageKind("PNG", ("png", "apng")),
    ImageKind("WEBP", ("webp",)),
    ImageKind("BMP", ("bmp",)),
    ImageKind("DIB", ("dib",)),
    ImageKind("GIF", ("gif",)),
    ImageKind("TIFF", ("tif", "tiff")),
    ImageKind("PPM", ("ppm", "pgm", "pbm", "pnm", "pfm")),
    ImageKind("JPEG2000", ("jp2", "j2k", "jpc", "jpf", "jpx", "j2c")),
    ImageKind("AVIF", ("avif", "avifs")),
    ImageKind("QOI", ("qoi",)),
    ImageKind("TGA", ("tga", "icb", "vda", "vst")),
    ImageKind("PCX", ("pcx",)),
    ImageKind("SGI", ("sgi",)),
    ImageKind("SUN", ("ras",)),
    ImageKind("DDS", ("dds",)),
    ImageKind("ICO", ("ico",)),
    ImageKind("ICNS", ("icns",)),
    ImageKind("PSD", ("psd",)),
    ImageKind("XBM", ("xbm",)),
    ImageKind("XPM", ("xpm",)),
)
IMAGE_ENDINGS = tuple(dict.fromkeys(ending for kind in IMAGE_KINDS for ending in kind.endings))
"""Of two images of one sample, the one whose ending stands first is taken."""
_TEXTS = (
    "txt md rst json jsonl ndjson csv tsv xml yaml yml toml ini cfg conf log html htm css js py ipynb sh bat caption"
)
_DOCUMENTS = "pdf doc docx xls xlsx ppt pptx odt ods rtf tex bib url lnk"
_TABLES = (
    "parquet arrow feather orc avro npy npz pkl pickle pt pth ckpt onnx safetensors mat h5 hdf5 hdf db sqlite lmdb mdb"
)
_ARCHIVES = "tar gz tgz bz2 xz zst zip 7z rar idx"
_MEDIA = "mp4 mov avi mkv webm m4v mpg mpeg wmv mp3 wav flac ogg m4a"
_BESIDE_IMAGES = "xmp aae pp3 prj tfw jgw pgw lock part tmp crc md5 sha1 sha256 sum"
OTHER_ENDINGS = frozenset(" ".join((_TEXTS, _DOCUMENTS, _TABLES, _ARCHIVES, _MEDIA, _BESIDE_IMAGES)).split())
"""Endings of files that are surely no images; beside images they are passed over, and said to be."""

# What Pillow remarks on odd metadata of images that decode all the same. Once for the process: images are decoded in
# threads, which would leave each other the filters of `catch_warnings`. Its warnings of very large images are others.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.init()
_ENDING_OF = {kind.name: kind.endings[0] for kind in IMAGE_KINDS}
_OPENED = [name for name in _ENDING_OF if name in Image.OPEN]  # MPO is opened as JPEG; a Pillow may lack a library


def ending_of(data: bytes) -> str | None:
    """The usual ending, without the dot, of the kind of image that some bytes are; None where they are none.

    Only the header is looked at, which may be of any size: nothing is decoded. None where it is damaged, too.
    """
    for name in _OPENED:
        opener, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(data[:16])
            if accepted and not isinstance(accepted, str):  # text tells which library is missing
                return _ENDING_OF[str(opener(io.BytesIO(data), "").format)]
        except Image.DecompressionBombError:
            return _ENDING_OF[name]
        except Exception:  # noqa: BLE001, S112 - another kind, or damaged: Pillow raises whatever it runs into
            continue
    return None
