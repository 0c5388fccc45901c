"""The inputs of a run: the candidates, and separate test images if there are any."""

from dataclasses import replace

from elfs_ray.artifacts.filesystems import with_options_of, without_options
from elfs_ray.artifacts.record import TEST, Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.config import RunConfig
from elfs_ray.data.listing import TooManyError
from elfs_ray.data.sources import Source, listed, look_at_input, source_of
from elfs_ray.data.sources.base import About

ABOUT = "about"
"""What the record of a listing says of the input as a whole."""
LISTED_AT_ONCE = 10_000
"""Files of a local folder that are listed while the user waits; of more, tasks make the listing."""


def prefixes_of(config: RunConfig) -> tuple[str, ...]:
    """Of the units that work on an input of a run."""
    return ("", TEST) if config.evaluate.test_input else ("",)


def location_of(config: RunConfig, prefix: str) -> str | None:
    """Of an input; None where the run's embeddings stand for images."""
    return config.evaluate.test_input if prefix else config.input


def listed_source(store: RunFolder, config: RunConfig, prefix: str = "") -> Source:
    """An input as the run folder lists it, reached as the run says."""
    unit = Unit("listing", prefix)
    about = About.from_json(store.records()[unit].metrics[ABOUT])
    location = with_options_of(without_options(about.location), location_of(config, prefix) or config.location)
    return source_of(replace(about, location=location), Table(store, unit.artifact("listing")))


def small_inputs(config: RunConfig, records: Records) -> dict[str, Source]:
    """The inputs that can be listed in a moment, in memory, by prefix.

    On object storage that is known of those alone that were listed before.

    Raises:
        UsageError: an input is wrong, as far as a look at it shows.
    """
    found = {}
    for prefix in prefixes_of(config):
        before = records.get(Unit("listing", prefix))
        known = before is not None and before.metrics["inputs"] <= LISTED_AT_ONCE
        try:
            looked = look_at_input(config, location_of(config, prefix), None if known else LISTED_AT_ONCE)
        except TooManyError:
            continue
        if looked.is_small:
            found[prefix] = listed(looked)
    return found
