"""The file systems behind locations: pyarrow's, S3 with patience, the Hugging Face Hub."""

import contextlib
import os
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from elfs_ray.artifacts.filesystems import HUB, REMEDY, REQUEST_SECONDS, SEPARATOR, NoAnswerError, reason
from elfs_ray.errors import UsageError, one_line

S3_OPTIONS = ("endpoint_override", "region", "scheme")


class S3(pafs.S3FileSystem):  # type: ignore[misc] # pyarrow has no annotations
    """S3 with patience. Another process that receives it looks for credentials of its own.

    (pyarrow's own pickles hold the secret key if one was passed, and forget the number of attempts.)
    """

    def __init__(self, region: str | None, scheme: str | None, endpoint: str | None, attempts: int) -> None:
        super().__init__(
            region=region,
            scheme=scheme,
            endpoint_override=endpoint,
            request_timeout=REQUEST_SECONDS,
            # A small file is one request, not the three of a multipart upload; a kill leaves no part of it behind.
            allow_delayed_open=True,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        )
        self._arguments = (region, scheme, endpoint, attempts)

    @cached_property
    def client(self) -> Any:
        """A boto3 client of the same store, as patient as this one, for requests that pyarrow cannot make."""
        import boto3
        from botocore.config import Config

        region, scheme, endpoint, attempts = self._arguments
        session = boto3.Session()
        return session.client(
            "s3",
            region_name=region or session.region_name or "us-east-1",
            endpoint_url=f"{scheme or 'https'}://{endpoint}" if endpoint else None,
            config=Config(
                connect_timeout=REQUEST_SECONDS / 2,
                read_timeout=REQUEST_SECONDS / 2,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                # As pyarrow: no proxies, no host names made of buckets, and no checksums that older stores do not know.
                proxies={},
                s3={"addressing_style": "path" if endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def __reduce__(self) -> tuple[type["S3"], tuple[str | None, str | None, str | None, int]]:
        return S3, self._arguments


def local() -> pafs.FileSystem:
    """That of this machine."""
    return pafs.LocalFileSystem()


def resolve_other(location: str) -> tuple[pafs.FileSystem, str]:
    """File system and path of a URI that pyarrow knows by itself.

    Raises:
        UsageError: it does not, or the store refuses.
    """
    try:
        filesystem, path = pafs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{location} cannot be opened ({one_line(error)}); pass a local path, s3://BUCKET/PATH or gs://BUCKET/PATH"
        ) from None
    return filesystem, path.rstrip("/")


def check_bucket(location: str, filesystem: pafs.FileSystem, path: str) -> None:
    """As `filesystems.check_bucket`, of a location that is resolved."""
    if not isinstance(filesystem, S3):
        return
    bucket = path.partition("/")[0]
    try:
        filesystem.get_file_info(path)
        found = filesystem.get_file_info(bucket).type
    except OSError as error:
        raise UsageError(f"{location} cannot be used ({reason(error)}); {REMEDY}") from None
    if found == pafs.FileType.NotFound:
        raise UsageError(f"bucket {bucket!r} of {location} does not exist; make it, or mend the name or the endpoint")


def resolve_hub(location: str) -> tuple[pafs.FileSystem, str]:
    """File system and path of a place on the Hugging Face Hub.

    Raises:
        UsageError: it is no data set.
    """
    path = location.removeprefix(HUB).rstrip("/")
    if not re.fullmatch(r"datasets/[^/]+/[^/]+(/.+)?", path):
        raise UsageError(f"{location} names no data set; pass hf://datasets/OWNER/NAME/FOLDER")
    return _hub(), path


@lru_cache(maxsize=1)
def _hub() -> pafs.FileSystem:
    from huggingface_hub import HfFileSystem

    return pafs.PyFileSystem(_Hub(HfFileSystem()))


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Make what the client of the Hub raises, of some HTTP library or other, an `OSError`."""
    try:
        yield
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, OSError) and status is None and not isinstance(error, ConnectionError):
            raise
        if status is not None and status < 500 and status != 429:
            raise OSError(f"the Hugging Face Hub refuses with status {status}; is HF_TOKEN set?") from error
        raise NoAnswerError(f"the Hugging Face Hub does not answer ({one_line(error)})") from error


class _Hub(pafs.FSSpecHandler):  # type: ignore[misc] # pyarrow has no annotations
    """Data sets on the Hugging Face Hub. Other processes log in by themselves, with HF_TOKEN or the saved login."""

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        with _answered():
            return super().get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        with _answered():
            return super().get_file_info_selector(selector)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        with _answered():
            return super().open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        with _answered():
            return super().open_input_file(path)


def resolve_s3(location: str, attempts: int) -> tuple[pafs.FileSystem, str]:
    """File system and path of a place on S3, or a store like it.

    Args:
        location: URI.
        attempts: of each request.

    Raises:
        UsageError: it names no bucket, has an unknown option, or cannot be opened.
    """
    path, _, query = location.removeprefix("s3://").partition("?")
    path = unquote(path).rstrip("/")
    bucket = path.partition("/")[0]
    if not bucket:
        raise UsageError(f"{location} names no bucket; pass s3://BUCKET/PATH")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [name for name in options if name not in S3_OPTIONS]
    if unknown:
        raise UsageError(f"{location} has the unknown option {unknown[0]!r}; known: {', '.join(S3_OPTIONS)}")
    endpoint = options.get("endpoint_override") or _endpoint_of_environment()
    try:
        return _s3(bucket, options.get("region"), options.get("scheme"), endpoint, attempts), path
    except (OSError, ValueError) as error:
        told = reason(error) if isinstance(error, OSError) else one_line(error)
        raise UsageError(f"{location} cannot be opened ({told}); {REMEDY}") from None


@lru_cache(maxsize=32)
def _s3(bucket: str, region: str | None, scheme: str | None, endpoint: str | None, attempts: int) -> S3:
    """One client for all files of a bucket: each has connections of its own."""
    if endpoint and SEPARATOR in endpoint:
        scheme, _, endpoint = endpoint.rstrip("/").partition(SEPARATOR)
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(bucket)
    return S3(region, scheme, endpoint, attempts)


def _endpoint_of_environment() -> str | None:
    # pyarrow itself reads these for URIs only, not for file systems with options.
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
