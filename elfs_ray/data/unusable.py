"""Inputs that cannot be used: how many of them a run bears, and how a stage says that it met one."""

from collections.abc import Sequence
from dataclasses import dataclass

from elfs_ray.errors import RunError, UsageError


@dataclass(frozen=True, order=True)
class Unusable:
    """An image that ingest took and that can no longer be read or decoded.

    Attributes:
        index: of the sample.
        sample_id: of the sample.
        reason: in a few words.
    """

    index: int
    sample_id: str
    reason: str


class UnusableImagesError(RunError):
    """A stage could not read some images, and has done what it could with the others.

    The pipeline sets them aside, as ingest would have done, and runs the stage again without them.

    Attributes:
        images: which, in order of index.
        prefix: `test` where they are separate test images.
    """

    def __init__(self, images: Sequence[Unusable], prefix: str = "") -> None:
        self.images, self.prefix = sorted(images), prefix
        first = self.images[0]
        others = f" and {len(images) - 1:,} more" if len(images) > 1 else ""
        super().__init__(f"image {first.sample_id!r}{others} could be read at ingest and no longer can: {first.reason}")

    def __reduce__(self) -> tuple[type["UnusableImagesError"], tuple[list[Unusable], str]]:
        """Workers raise it, and the driver needs the images."""
        return UnusableImagesError, (self.images, self.prefix)


def refuse_many(bad: int, inputs: int, first: tuple[str, str], max_bad_fraction: float) -> None:
    """Stop a run whose input is bad as a whole.

    Args:
        bad: how many inputs cannot be used.
        inputs: how many there are.
        first: id of one that cannot be used, and why not.
        max_bad_fraction: the largest share that may be bad.

    Raises:
        UsageError: more are bad, or all are.
    """
    share = bad / inputs
    if bad == inputs or share > max_bad_fraction:
        raise UsageError(
            f"{bad:,} of {inputs:,} inputs ({share:.1%}) cannot be used, more than "
            f"ingest.max_bad_fraction={max_bad_fraction:g}; the first is {first[0]!r}: {first[1]}; "
            "fix or remove them, or raise the limit with --set ingest.max_bad_fraction=..."
        )
