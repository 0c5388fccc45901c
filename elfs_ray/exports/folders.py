"""Coresets as folders that viewers and training code open: FiftyOne, Hugging Face, WebDataset, links."""

import io
import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from elfs_ray.data.annotations import EXPORT_KEY
from elfs_ray.errors import UsageError
from elfs_ray.exports.records import Exported, export_key
from elfs_ray.exports.rows import LONGEST_NAME, Coreset, Sample, file_name, local_path

SHARD_BYTES = 256 * 2**20
ROWS_PER_FILE = 1000


def write_fiftyone(coreset: Coreset, folder: Path) -> list[Exported]:
    """A FiftyOneDataset: `samples.json` and `metadata.json`."""
    exported = coreset.exported(folder)
    key = export_key("fiftyone", coreset.name, exported)
    samples = []
    for sample, named in zip(coreset.samples, exported, strict=True):
        one: dict[str, Any] = {
            "filepath": named.place,
            "tags": ["coreset"],
            "sample_id": sample.sample_id,
            "rank": sample.rank,
            "score": sample.score,
            EXPORT_KEY: key,
        }
        if sample.cluster is not None:
            one["pseudo_label"] = {"_cls": "Classification", "label": sample.cluster}
        samples.append(one)
    (folder / "samples.json").write_text(json.dumps({"samples": samples}, indent=1))
    metadata = {"name": coreset.name, "media_type": "image", "info": {}}
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=1))
    return exported


def write_hugging_face(coreset: Coreset, folder: Path) -> list[Exported]:
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
    exported = list[Exported]()
    with pq.ParquetWriter(folder / "train.parquet", layout) as writer:
        rows: list[dict[str, Any]] = []
        for sample, data in coreset.pictures():
            name = file_name(sample, data)
            exported.append(Exported(sample.sample_id, sample.index, name))
            image = {"bytes": data, "path": name}
            rows.append({"image": image, **{column: getattr(sample, column) for column in layout.names[1:]}})
            if len(rows) == ROWS_PER_FILE:
                writer.write_table(pa.Table.from_pylist(rows, layout))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, layout))
    return exported


def write_webdataset(coreset: Coreset, folder: Path) -> list[Exported]:
    """Shards `shard-NNNNNN.tar` of about 256 MiB; keys are ranks, so that they hold neither points nor folders."""
    exported, shard, size, archive = list[Exported](), 0, 0, None
    try:
        for sample, data in coreset.pictures():
            if archive is None or size > SHARD_BYTES:
                if archive is not None:
                    archive.close()
                archive, size = tarfile.open(folder / f"shard-{shard:06d}.tar", "w"), 0  # noqa: SIM115 - closed below
                shard += 1
            key, ending = f"{sample.rank:09d}", file_name(sample, data).rpartition(".")[2]
            exported.append(Exported(sample.sample_id, sample.index, f"{key}.{ending.lower()}"))
            _add(archive, exported[-1].name, data)
            _add(archive, f"{key}.json", json.dumps(_described(sample)).encode())
            size += len(data)
    finally:
        if archive is not None:
            archive.close()
    return exported


def write_symlinks(coreset: Coreset, folder: Path) -> list[Exported]:
    """Links named by rank, `000000-NAME`; pictures that lie in a table become files."""
    exported = list[Exported]()
    if coreset.in_table:
        for sample, data in coreset.pictures():
            name = _flat(sample, file_name(sample, data))
            (folder / name).write_bytes(data)
            exported.append(Exported(sample.sample_id, sample.index, name, str(coreset.out / name)))
        return exported
    for sample in coreset.samples:
        name, target = _flat(sample, _with_ending(sample)), local_path(sample.uri)
        if "://" in target:
            raise UsageError(
                f"image {sample.sample_id!r} is at {target}, where no link can point; use webdataset or huggingface"
            )
        if not Path(target).is_file():
            raise UsageError(f"image {sample.sample_id!r} is no longer at {target}; restore it, then export")
        (folder / name).symlink_to(target)
        exported.append(Exported(sample.sample_id, sample.index, name, str(coreset.out / name)))
    return exported


def _with_ending(sample: Sample) -> str:
    """The id, with the ending of its file if it has another or none: programs know images by it."""
    ending = PurePosixPath(sample.uri).suffix
    return sample.sample_id if sample.sample_id.lower().endswith(ending.lower()) else f"{sample.sample_id}{ending}"


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
