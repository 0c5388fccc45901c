"""An object that a process writes only if nobody else wrote it meanwhile: what a lock on object storage is made of."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from elfs_ray.artifacts import filesystems, stores
from elfs_ray.artifacts.run_folder import RunFolder

_PROBE = ".lock-probe"
_READINGS = 4
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}
_UNKNOWN = {"NotImplemented", "InvalidArgument", "InvalidRequest", "501", "400"}


class Seen(NamedTuple):
    """What an object held, and what stands for just this content."""

    data: bytes
    tag: str


class LockObject(Protocol):
    """One object; `OSError` says that the store does not answer."""

    def read(self) -> Seen | None:
        """What it holds; None if there is none."""

    def replace(self, seen: Seen | None, data: bytes) -> Seen | None:
        """Write it if it is still as it was seen; None if it is not.

        A request that is repeated because its answer was lost finds what it wrote itself, and gives None, too.
        """


def lock_objects(store: RunFolder, name: str) -> tuple[LockObject, LockObject]:
    """An object of a run folder, once for requests that are repeated for long, once for those that soon give up."""
    conditional = isinstance(store.filesystem, stores.S3) and ConditionalObject(store, _PROBE).is_compared()
    kind = ConditionalObject if conditional else PlainObject
    return kind(store, name), kind(store, name, filesystems.QUICK_ATTEMPTS)


class ConditionalObject:
    """On S3, and stores like it, which compare and write in one step."""

    def __init__(self, store: RunFolder, name: str, attempts: int | None = None) -> None:
        filesystem, root = filesystems.resolve(store.uri, attempts=attempts)
        bucket, _, key = f"{root}/{name}".partition("/")
        self._client, self._place = filesystem.client, {"Bucket": bucket, "Key": key}

    def read(self) -> Seen | None:
        """As `LockObject`."""
        with _os_errors():
            try:
                answer = self._client.get_object(**self._place)
            except self._client.exceptions.NoSuchKey:
                return None
            return Seen(answer["Body"].read(), answer["ETag"])

    def replace(self, seen: Seen | None, data: bytes) -> Seen | None:
        """As `LockObject`."""
        condition = {"IfMatch": seen.tag} if seen else {"IfNoneMatch": "*"}
        with _os_errors():
            try:
                return Seen(data, self._client.put_object(**self._place, **condition, Body=data)["ETag"])
            except self._client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in _REFUSED:
                    raise
                return None

    def is_compared(self) -> bool:
        """Whether the store knows both conditions: some write without a look, some refuse every request with one."""
        from botocore.exceptions import ClientError

        try:
            # The first of these may be the one that makes the object.
            made_once = self.replace(None, b"") is None or self.replace(None, b"") is None
            return made_once and self.replace(Seen(b"", f'"{"0" * 32}"'), b"") is None
        except OSError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"]["Code"] in _UNKNOWN:
                return False
            raise


class PlainObject:
    """On a store that only reads and writes: between the two another process may write."""

    def __init__(self, store: RunFolder, name: str, attempts: int | None = None) -> None:
        self._filesystem, root = filesystems.resolve(store.uri, attempts=attempts)
        self._path = f"{root}/{name}"

    def read(self) -> Seen | None:
        """As `LockObject`."""
        data = b""
        for _ in range(_READINGS):  # one that a longer one replaces while it is read comes cut off
            try:
                with self._filesystem.open_input_stream(self._path) as stream:
                    data = stream.read()
            except FileNotFoundError:
                return None
            if data.rstrip().endswith(b"}"):
                break
        return Seen(data, "")

    def replace(self, seen: Seen | None, data: bytes) -> Seen | None:
        """As `LockObject`, nearly."""
        if self.read() != seen:
            return None
        with self._filesystem.open_output_stream(self._path) as stream:
            stream.write(data)
        return Seen(data, "")


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Make the errors of boto3 those that pyarrow raises, in its words."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        answer: dict[str, Any] = error.response
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", answer["Error"]["Code"]).upper()
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise OSError(f"AWS Error {code} (HTTP status {status}): {answer['Error'].get('Message', '')}") from error
    except NoCredentialsError as error:
        raise OSError(f"AWS Error MISSING_AUTHENTICATION_TOKEN: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"AWS Error NETWORK_CONNECTION: {error}") from error
