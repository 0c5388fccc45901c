"""Local paths and object-store URIs behind one interface (pyarrow file systems).

What follows `?` in a URI says how to reach the store (`s3://photos/run?endpoint_override=minio:9000&scheme=http`), not
what is there: it goes to every process, and into no fingerprint. Credentials are no part of a location: each process
takes those of its own environment, so that no file and no log holds them.

Here are locations as text, and what errors of a store mean; the file systems themselves are in `stores`, so that
pyarrow is imported with the first one that is opened: most commands read locations, many open none.
"""

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from elfs_ray.errors import ElfsRayError, RunError, UsageError, one_line

if TYPE_CHECKING:
    import pyarrow.fs as pafs

ATTEMPTS = 10
"""Attempts of each request to S3. The waits between them double, up to 20 seconds: a minute or more in all."""
QUICK_ATTEMPTS = 3
"""... while only looking whether a location is right, with a user who waits."""
REQUEST_SECONDS = 10
"""Wait so long for an answer: S3 is silent while it copies a large object."""
HUB = "hf://"

SEPARATOR = "://"
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


class NoAnswerError(ConnectionError):
    """A store that is reached through Python does not answer."""


def resolve(location: str, *, attempts: int | None = None) -> "tuple[pafs.FileSystem, str]":
    """File system and path inside it of a local path or a URI.

    Args:
        location: local path or URI.
        attempts: attempts of each request to S3; default: AWS_MAX_ATTEMPTS of the environment, else `ATTEMPTS`.

    Raises:
        UsageError: the URI is not one that pyarrow knows, holds credentials, or the store refuses.
    """
    from elfs_ray.artifacts import stores

    if SEPARATOR not in location:
        return stores.local(), os.path.abspath(os.path.expanduser(location))
    refuse_credentials(location)
    if location.startswith(HUB):
        return stores.resolve_hub(location)
    if location.startswith("s3://"):
        return stores.resolve_s3(location, attempts or _default_attempts())
    return stores.resolve_other(location)


def longest_request(attempts: int | None = None) -> float:
    """Seconds after which a request to S3 has been answered, or given up."""
    attempts = attempts or _default_attempts()
    return attempts * REQUEST_SECONDS + sum(min(2**number, 20) for number in range(attempts - 1))


def refuse_credentials(location: str) -> None:
    """Refuse a URI with a secret in it, without repeating it: locations stand in the manifest, reports and messages.

    Raises:
        UsageError: it has one.
    """
    if SEPARATOR not in location:
        return
    scheme, _, rest = location.partition(SEPARATOR)
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
    return location.partition("?")[0] if SEPARATOR in location else location


def with_options_of(location: str, like: str) -> str:
    """A location, to be reached as another one in the same kind of store is, unless it says itself how."""
    options = like.partition("?")[2] if SEPARATOR in like else ""
    scheme = like.partition(SEPARATOR)[0] + SEPARATOR
    return f"{location}?{options}" if options and location.startswith(scheme) and "?" not in location else location


def uri_of(path: str, like: str) -> str:
    """The URI, without options, of a path inside the file system of a location; a local path stays one."""
    if SEPARATOR not in like:
        return path
    scheme = like.partition(SEPARATOR)[0]
    if scheme == "s3":  # names of objects may hold any character: a space, a `?`, a `%`
        path = quote(path, safe=_LEFT_AS_THEY_ARE)
    return f"{scheme}{SEPARATOR}{path}"


def check_bucket(location: str) -> None:
    """Refuse a folder on S3 that cannot be used: listing a bucket that does not exist looks like an empty one.

    Raises:
        UsageError: nothing answers, the credentials are wrong, or there is no such bucket.
    """
    if location.startswith(HUB):
        raise UsageError(f"{location} can only be read; choose another --out")
    if SEPARATOR not in location:
        return
    from elfs_ray.artifacts import stores

    stores.check_bucket(location, *resolve(location, attempts=QUICK_ATTEMPTS))


REMEDY = "check bucket, endpoint and credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)"


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
        return UsageError(f"{unit} stopped: {location} refuses ({reason(error)}); {REMEDY}, and run again")
    if _AWS_ERROR.search(text):
        return RunError(
            f"{unit} stopped: {location} does not answer as it should ({reason(error)}); "
            "when it does, run the same command again to go on from there"
        )
    return None


def _default_attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"AWS_MAX_ATTEMPTS is {text!r}; set it to a count from 1 on, or leave it out")
    return int(text)
