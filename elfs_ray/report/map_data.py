"""What the map of the report shows: points, what is known of each, and pictures of some of them."""

from typing import Any

import numpy as np

from elfs_ray.artifacts.record import Records, Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.report.thumbnails import Pictures

MOST_PICTURES = 1000
PICTURE_SIDE = 64
LONGEST_ID = 80


def map_data(store: RunFolder, records: Records, pictures: Pictures, most_pictures: int) -> dict[str, Any] | None:
    """Lists by point, as plain JSON; None without a map.

    Args:
        store: of the run.
        records: of what is current; each coreset gives the points that it selected.
        pictures: makes them, of at most `most_pictures` points: half of them selected by any coreset.
        most_pictures: at most `MOST_PICTURES` are made.
    """
    if Unit("map") not in records:
        return None
    table = Table(store, "map").read()
    index = table["index"].to_numpy()
    selected = {
        unit.coreset: np.flatnonzero(np.isin(index, Table(store, unit.artifact("coresets")).column("index")))
        for unit in records.of("select")
    }
    found: dict[str, Any] = {
        "x": [round(value, 2) for value in table["x"].to_pylist()],
        "y": [round(value, 2) for value in table["y"].to_pylist()],
        "id": [text[-LONGEST_ID:] for text in table["sample_id"].to_pylist()],
        "selected": {name: points.tolist() for name, points in selected.items()},
        "cluster": None,
        "aum": None,
        "difficulty": None,
    }
    if Unit("pseudo_labels") in records:
        found["cluster"] = Table(store, "pseudo_labels").column("label")[index].tolist()
    if Unit("proxy") in records:
        aum = Table(store, "dynamics").column("aum")[index]
        found["aum"] = [round(value, 3) for value in aum.tolist()]
        # By rank, 1 the hardest: a few extreme values would leave one colour for all others.
        found["difficulty"] = np.round(
            1 - np.argsort(np.argsort(aum, kind="stable")) / max(1, len(aum) - 1), 3
        ).tolist()
    shown = _pictured(index, selected, min(most_pictures, MOST_PICTURES))
    by_id = {one.sample_id: one.data for one in pictures.make(dict.fromkeys(index[shown].tolist(), ""), PICTURE_SIDE)}
    ids = table["sample_id"].to_pylist()
    found["picture"] = {int(point): by_id[ids[point]] for point in shown if by_id.get(ids[point])}
    return found


def _pictured(index: np.ndarray, selected: dict[str, np.ndarray], most: int) -> np.ndarray:
    """Points whose picture is shown, spread over the map; half of them selected by any coreset."""
    rng = np.random.default_rng(0)
    chosen = np.unique(np.concatenate([np.empty(0, np.int64), *selected.values()]))
    others = np.setdiff1d(np.arange(len(index)), chosen)
    first = min(len(chosen), max(most // 2, most - len(others)))
    return np.sort(np.concatenate([rng.permutation(chosen)[:first], rng.permutation(others)[: most - first]]))
