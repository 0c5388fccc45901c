"""Records for run folders that no run made, and what a run would have to do."""

from elfs_ray.artifacts.record import Record, Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config import RunConfig
from elfs_ray.data.sources import open_input
from elfs_ray.run.graph import Planned, all_units
from elfs_ray.stages.parts.listed import location_of, prefixes_of


def record(unit: str, **values: object) -> Record:
    """Of a unit, with nothing below it unless it is given."""
    return Record(Unit.parse(unit), 1, "x", "x", **values)


def add_records(store: RunFolder, *records: Record) -> None:
    """Beside those that are there."""
    there = store.manifest().get("records", {})
    store.update_manifest(records={**there, **{str(each.unit): each.as_json() for each in records}})


def record_of(store: RunFolder, unit: str) -> Record:
    """What the manifest says of a unit."""
    return store.records()[Unit.parse(unit)]


def planned(config: RunConfig, *, num_samples: int, records: Records | None = None) -> dict[str, Planned]:
    """The units of a run over its input, by name."""
    looked = {
        prefix: open_input(config, location_of(config, prefix)).about.identity() for prefix in prefixes_of(config)
    }
    units = all_units([config], records or Records({}), num_samples, looked=looked)
    return {str(each.unit): each for each in units}


def fingerprints(config: RunConfig, *, num_samples: int, records: Records | None = None) -> dict[str, str]:
    """Of these units."""
    return {name: each.fingerprint for name, each in planned(config, num_samples=num_samples, records=records).items()}
