"""A plan, and what was measured for it, as they are shown."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from elfs_ray.config import BetaSearchConfig, EvaluateConfig, ProxyConfig, PseudoLabelsConfig
from elfs_ray.console import told_time
from elfs_ray.planning.cost import Rates, StageEstimate
from elfs_ray.workers.hardware import Hardware


@dataclass(frozen=True)
class Calibration:
    """What the measurements gave, and what they were made with.

    Attributes:
        rates: seconds of each unit of work.
        pseudo_labels: options that the clustering would choose.
        proxy: options that the proxy would choose.
        beta_search: options that the search of beta would choose.
        evaluate: options that the evaluation would choose, for each model.
        dim: width of the embeddings.
        image_bytes: mean size of an encoded image.
        encoder_bytes: of the encoder's weights.
        images: that were read.
    """

    rates: Rates
    pseudo_labels: PseudoLabelsConfig
    proxy: ProxyConfig
    beta_search: BetaSearchConfig
    evaluate: dict[str, EvaluateConfig]
    dim: int
    image_bytes: float
    encoder_bytes: int
    images: int


@dataclass(frozen=True)
class Plan:
    """An estimate of a whole run.

    Attributes:
        stages: in order.
        seconds: of all, with connecting to Ray.
        disk_bytes: of the finished run folder; about twice the largest artifact more while a stage works.
        money: in the unit of the price, or None.
        images: candidates.
        calibration: what was measured.
        hardware: that is planned for.
        load: processes that wanted a core of this machine while it was measured; well above 0 makes all look slower.
    """

    stages: list[StageEstimate]
    seconds: float
    disk_bytes: int
    money: float | None
    images: int
    calibration: Calibration
    hardware: Hardware
    load: float

    def tables(self) -> Iterator[Table | str]:
        """What a person reads."""
        table = Table(box=None, pad_edge=False)
        for name in ("stage", "rows", "time", "run folder", "memory of its processes"):
            table.add_column(name, justify="left" if name == "stage" else "right")
        for stage in self.stages:
            memory = f"{stage.actors} x {_size(stage.actor_bytes)}" if stage.actors else "-"
            disk = _size(stage.disk_bytes) if stage.disk_bytes else "-"
            table.add_row(stage.stage, f"{stage.rows:,}" if stage.rows else "-", told_time(stage.seconds), disk, memory)
        yield table
        yield f"total {told_time(self.seconds)}, run folder {_size(self.disk_bytes)}" + (
            "" if self.money is None else f", money {self.money:,.2f}"
        )
        there = self.hardware
        yield (
            f"for {there.cpus} cores and {there.gpus} GPUs, measured on {self.calibration.images} images of "
            f"{self.images:,} on this machine (load {self.load:.1f}); methods that compare images take longer to select"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for section in ("pseudo_labels", "proxy", "beta_search"):
            values["calibration"][section] = getattr(self.calibration, section).model_dump(mode="json")
        evaluate = self.calibration.evaluate.items()
        values["calibration"]["evaluate"] = {model: options.model_dump(mode="json") for model, options in evaluate}
        return values


def _size(count: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
