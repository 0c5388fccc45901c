"""The members of a tar archive that is not compressed, with the places of their bytes."""

import io
import tarfile
from collections.abc import Iterator

import pyarrow.fs as pafs

from elfs_ray.artifacts import filesystems
from elfs_ray.data.files import READ_BUFFER_BYTES
from elfs_ray.errors import UsageError, one_line

HEADER_BYTES = 2**20
"""More than any true header: a damaged one can claim a size that fills the memory."""
_LOCAL_BUFFER_BYTES = 4096
# What `tarfile` raises on damaged headers, beside its own errors.
_DAMAGE = (tarfile.TarError, ValueError, KeyError, IndexError, OverflowError, EOFError)


class Reader(io.BufferedReader):
    """An archive as `tarfile` reads it: headers alone, unless `body` is called."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes of a header; refuses absurd sizes."""
        if size is None or not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)

    def body(self, member: tarfile.TarInfo) -> bytes:
        """The content of a small member; raises `ValueError` for a large one."""
        self.seek(member.offset_data)
        return self.read(member.size)


def open_archive(path: str, filesystem: pafs.FileSystem) -> Reader:
    """An archive to list. Of a local file headers alone are read; else large pieces, with the images between them."""
    size = _LOCAL_BUFFER_BYTES if isinstance(filesystem, pafs.LocalFileSystem) else READ_BUFFER_BYTES
    return Reader(filesystem.open_input_file(path), size)


def members(reader: Reader, path: str) -> Iterator[tarfile.TarInfo]:
    """Members that are no folders, in order.

    Raises:
        UsageError: the archive is none, is damaged or was cut off; `OSError` where the store does not answer.
    """
    count, offset = 0, -1
    try:
        archive = tarfile.TarFile(fileobj=reader, encoding="utf-8")
        while (member := archive.next()) is not None:
            if archive.offset <= offset:
                raise tarfile.ReadError("its members stand in a circle")
            offset = archive.offset
            archive.members.clear()  # type: ignore[attr-defined] # else it keeps all of them
            count += 1
            if not member.isdir():
                yield member
        # Where a header is damaged, `tarfile` ends as at the end of the archive, which is zeros or the end of the file.
        reader.seek(archive.offset)
        if reader.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
        # Members and zeros are all that an archive holds: else some of what the file holds would be lost.
        while piece := reader.read(HEADER_BYTES):
            if piece.strip(b"\0"):
                raise tarfile.ReadError("more follows its end, as where archives were joined")
    except OSError as error:
        if filesystems.is_outage(error):
            raise
        raise UsageError(f"{path} cannot be read: {filesystems.reason(error)}") from None
    except _DAMAGE as error:
        told = f"after member {count:,}" if count else "at its start"
        raise UsageError(
            f"{path} is damaged or cut off, or no plain tar archive, {told} ({one_line(error)}); "
            "copy or make it again, or leave it out"
        ) from None
