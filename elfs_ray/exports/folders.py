"""Coresets as folders that viewers and training code open: FiftyOne, Hugging Face, WebDataset, links."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from elfs_ray.errors import UsageError
from elfs_ray.exports.rows import LONGEST_NAME, Coreset, Sample, file_name

SHARD_BYTES = 256 * 2**20
ROWS_PER_FILE = 1000


def write_fiftyone(coreset: Coreset, folder: Path) -> None:
    """A FiftyOneDataset: `samples.json` and `metadata.json`."""
    samples = []
    for sample, place in coreset.places(folder):
        one: dict[str, Any] = {
            "filepath": place,
            "tags": ["coreset"],
            "sample_id": sample.sample_id,
            "rank": sample.rank,
            "score": sample.score,
        }
        if sample.cluster is not None:
            one["pseudo_label"] = {"_cls": "Classification", "label": sample.cluster}
        samples.append(one)
    (folder / "samples.json").write_text(json.dumps({"samples": samples}, indent=1))
    metadata = {"name": coreset.name, "media_type": "image", "info": {}}
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=1))


def write_hugging_face(coreset: Coreset, folder: Path) -> None:
    """Parquet files whose `image` column `datasets.load_dataset` decodes; the bytes are those of the files."""
    features = {
        "image": {"_type": "Image"},
        "sample_id": {"dtype": "string", "_type": "Value"},
        "rank": {"dtype": "int64", "_type": "Value"},
        "score": {"dtype": "float32", "_type": "Value"},
        "cluster": {"dtype": "string", "_type": "Value"},
    }
    layout = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("sample_id", pa.string()),
            ("rank", pa.int64()),
            ("score", pa.float32()),
            ("cluster", pa.string()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with pq.ParquetWriter(folder / "train.parquet", layout) as writer:
        rows: list[dict[str, Any]] = []
        for sample, data in coreset.pictures():
            image = {"bytes": data, "path": file_name(sample, data)}
            rows.append({"image": image, **{name: getattr(sample, name) for name in layout.names[1:]}})
            if len(rows) == ROWS_PER_FILE:
                writer.write_table(pa.Table.from_pylist(rows, layout))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, layout))


def write_webdataset(coreset: Coreset, folder: Path) -> None:
    """Shards `shard-NNNNNN.tar` of about 256 MiB; keys are ranks, so that they hold neither points nor folders."""
    shard, size, archive = 0, 0, None
    try:
        for sample, data in coreset.pictures():
            if archive is None or size > SHARD_BYTES:
                if archive is not None:
                    archive.close()
                archive, size = tarfile.open(folder / f"shard-{shard:06d}.tar", "w"), 0  # noqa: SIM115 - closed below
                shard += 1
            key, ending = f"{sample.rank:09d}", file_name(sample, data).rpartition(".")[2]
            _add(archive, f"{key}.{ending.lower()}", data)
            _add(archive, f"{key}.json", json.dumps(_described(sample)).encode())
            size += len(data)
    finally:
        if archive is not None:
            archive.close()


def write_symlinks(coreset: Coreset, folder: Path) -> None:
    """Links named by rank, `000000-NAME`; pictures that lie in a table become files."""
    if not coreset.in_table and "://" in coreset.location:
        raise UsageError(
            f"the images are at {coreset.location}, where no link can point; use webdataset or huggingface"
        )
    if coreset.in_table:
        for sample, data in coreset.pictures():
            (folder / _flat(sample, file_name(sample, data))).write_bytes(data)
        return
    for sample, place in coreset.places(folder):
        (folder / _flat(sample, sample.sample_id)).symlink_to(place)


def _flat(sample: Sample, name: str) -> str:
    """The end of a long name: it must fit in a file system."""
    end = name.replace("/", "_").encode()[-LONGEST_NAME + 20 :].decode(errors="ignore")
    return f"{sample.rank:06d}-{end}"


def _described(sample: Sample) -> dict[str, Any]:
    return {"sample_id": sample.sample_id, "rank": sample.rank, "score": sample.score, "cluster": sample.cluster}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
