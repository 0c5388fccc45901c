"""Local paths and object-store URIs behind one interface (pyarrow file systems).

What follows `?` in a URI says how to reach the store (`s3://photos/run?endpoint_override=minio:9000&scheme=http`), not
what is there: it goes to every process, and into no fingerprint. Credentials are no part of a location: each process
takes those of its own environment, so that no file and no log holds them.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from elfs_ray.errors import ElfsRayError, RunError, UsageError, one_line

ATTEMPTS = 10
"""Attempts of each request to S3. The waits between them double, up to 20 seconds: a minute or more in all."""
QUICK_ATTEMPTS = 3
"""... while only looking whether a location is right, with a user who waits."""
REQUEST_SECONDS = 10
"""Wait so long for an answer: S3 is silent while it copies a large object."""
HUB = "hf://"
S3_OPTIONS = ("endpoint_override", "region", "scheme")

_SEPARATOR = "://"
_LEFT_AS_THEY_ARE = "/!$&'()*+,;=:@~"
_SECRET_OPTION = re.compile(r"[?&][^=&]*(secret|token|password|key|signature|sas)[^=&]*=", re.IGNORECASE)
_AWS_ERROR = re.compile(r"AWS Error (\w+)")
_NOT_FOUND_OR_CLOSED = ("ACCESS_DENIED", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND")
# Trying again helps with none of these. An answer without a body has no code of its own, only an HTTP status.
_FOR_THE_USER = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET"
    r"|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|REQUEST_TIME_TOO_SKEWED)"
    r"|HTTP status 40[13]|Bucket '[^']*' not found|token.{0,30} expired"
)


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


class NoAnswerError(ConnectionError):
    """A store that is reached through Python does not answer."""


def resolve(location: str, *, attempts: int | None = None) -> tuple[pafs.FileSystem, str]:
    """File system and path inside it of a local path or a URI.

    Args:
        location: local path or URI.
        attempts: attempts of each request to S3; default: AWS_MAX_ATTEMPTS of the environment, else `ATTEMPTS`.

    Raises:
        UsageError: the URI is not one that pyarrow knows, holds credentials, or the store refuses.
    """
    if _SEPARATOR not in location:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    refuse_credentials(location)
    if location.startswith(HUB):
        return _resolve_hub(location)
    if location.startswith("s3://"):
        return _resolve_s3(location, attempts or _default_attempts())
    try:
        filesystem, path = pafs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{location} cannot be opened ({one_line(error)}); pass a local path, s3://BUCKET/PATH or gs://BUCKET/PATH"
        ) from None
    return filesystem, path.rstrip("/")


def longest_request(attempts: int | None = None) -> float:
    """Seconds after which a request to S3 has been answered, or given up."""
    attempts = attempts or _default_attempts()
    return attempts * REQUEST_SECONDS + sum(min(2**number, 20) for number in range(attempts - 1))


def refuse_credentials(location: str) -> None:
    """Refuse a URI with a secret in it, without repeating it: locations stand in the manifest, reports and messages.

    Raises:
        UsageError: it has one.
    """
    if _SEPARATOR not in location:
        return
    scheme, _, rest = location.partition(_SEPARATOR)
    host = rest.partition("/")[0]
    # A secret key may hold a slash, so that no @ is left in what looks like the host; a bucket's name has no colon.
    in_host = re.search(r":.*@", host) or (scheme == "s3" and re.search("[:@]", host))
    if in_host or _SECRET_OPTION.search(rest):
        raise UsageError(
            f"a {scheme}:// location must not hold credentials, as it is written into the run folder; set them in the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or in ~/.aws/credentials"
        )


def without_options(location: str) -> str:
    """A location without the part that says how to reach it."""
    return location.partition("?")[0] if _SEPARATOR in location else location


def with_options_of(location: str, like: str) -> str:
    """A location, to be reached as another one in the same kind of store is, unless it says itself how."""
    options = like.partition("?")[2] if _SEPARATOR in like else ""
    scheme = like.partition(_SEPARATOR)[0] + _SEPARATOR
    return f"{location}?{options}" if options and location.startswith(scheme) and "?" not in location else location


def uri_of(path: str, like: str) -> str:
    """The URI, without options, of a path inside the file system of a location; a local path stays one."""
    if _SEPARATOR not in like:
        return path
    scheme = like.partition(_SEPARATOR)[0]
    if scheme == "s3":  # names of objects may hold any character: a space, a `?`, a `%`
        path = quote(path, safe=_LEFT_AS_THEY_ARE)
    return f"{scheme}{_SEPARATOR}{path}"


def check_bucket(location: str) -> None:
    """Refuse a folder on S3 that cannot be used: listing a bucket that does not exist looks like an empty one.

    Raises:
        UsageError: nothing answers, the credentials are wrong, or there is no such bucket.
    """
    if location.startswith(HUB):
        raise UsageError(f"{location} can only be read; choose another --out")
    filesystem, path = resolve(location, attempts=QUICK_ATTEMPTS)
    if not isinstance(filesystem, S3):
        return
    bucket = path.partition("/")[0]
    try:
        filesystem.get_file_info(path)
        found = filesystem.get_file_info(bucket).type
    except OSError as error:
        raise UsageError(f"{location} cannot be used ({reason(error)}); {_REMEDY}") from None
    if found == pafs.FileType.NotFound:
        raise UsageError(f"bucket {bucket!r} of {location} does not exist; make it, or mend the name or the endpoint")


_REMEDY = "check bucket, endpoint and credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)"


def reason(error: OSError) -> str:
    """What an error says, in one short line; of S3's long texts, the part that tells."""
    text = " ".join(str(error).split())
    found = _AWS_ERROR.search(text)
    if not found:
        return one_line(error)
    return one_line(OSError(re.sub(r" \(Request ID: [^)]*\)", "", text[found.start() :])))


def is_outage(error: OSError) -> bool:
    """Whether the store failed, not the one file that was asked for."""
    if isinstance(error, NoAnswerError):
        return True
    found = _AWS_ERROR.search(str(error))
    return found is not None and found[1] not in _NOT_FOUND_OR_CLOSED


def as_expected(error: OSError, unit: str, location: str) -> ElfsRayError | None:
    """The expected error behind a store: the user's to mend, or one that running again may pass; None if none is."""
    text = str(error)
    if isinstance(error, NoAnswerError):
        return RunError(f"{unit} stopped: {text}; when it does, run the same command again to go on from there")
    if _FOR_THE_USER.search(text):
        return UsageError(f"{unit} stopped: {location} refuses ({reason(error)}); {_REMEDY}, and run again")
    if _AWS_ERROR.search(text):
        return RunError(
            f"{unit} stopped: {location} does not answer as it should ({reason(error)}); "
            "when it does, run the same command again to go on from there"
        )
    return None


def _resolve_hub(location: str) -> tuple[pafs.FileSystem, str]:
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


def _resolve_s3(location: str, attempts: int) -> tuple[pafs.FileSystem, str]:
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
        raise UsageError(f"{location} cannot be opened ({told}); {_REMEDY}") from None


@lru_cache(maxsize=32)
def _s3(bucket: str, region: str | None, scheme: str | None, endpoint: str | None, attempts: int) -> S3:
    """One client for all files of a bucket: each has connections of its own."""
    if endpoint and _SEPARATOR in endpoint:
        scheme, _, endpoint = endpoint.rstrip("/").partition(_SEPARATOR)
    if region is None and endpoint is None:
        region = pafs.resolve_s3_region(bucket)
    return S3(region, scheme, endpoint, attempts)


def _endpoint_of_environment() -> str | None:
    # pyarrow itself reads these for URIs only, not for file systems with options.
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _default_attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"AWS_MAX_ATTEMPTS is {text!r}; set it to a count from 1 on, or leave it out")
    return int(text)
