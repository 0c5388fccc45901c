"""The Arrow schema of every artifact: readable with pandas, DuckDB or pyarrow alone.

Each artifact is a folder of Parquet files whose rows carry `sample_id` (the user's own id) and, once the images are
numbered, `index` (dense, in the order of the input, fixed at ingest). Parts and rows are in ascending `index`,
but for `pixels`.
"""

import pyarrow as pa

SAMPLE_ID = pa.field("sample_id", pa.string(), nullable=False)
INDEX = pa.field("index", pa.int64(), nullable=False)


def _filled(**types: pa.DataType) -> list[pa.Field]:
    """Columns that hold no nulls."""
    return [pa.field(name, kind, nullable=False) for name, kind in types.items()]


LISTING = pa.schema(
    [
        *_filled(position=pa.int64(), rows=pa.int64(), chunk=pa.int32()),
        pa.field("id", pa.string()),
        *_filled(uri=pa.string()),
        pa.field("group", pa.int32()),
        *(pa.field(name, pa.int64()) for name in ("row", "skip", "offset", "size")),
        pa.field("error", pa.string()),
    ]
)
"""Where each input is: a file, a member of an archive, or `rows` rows of a table that stand together.

`position` is that of its first input. Of a table, `group` is the row group or record batch, `row` the number of the
first row in the file, and `skip` the rows of the group before it. `offset` and `size` are bytes in the file, `error`
is what is wrong with an input already. Inputs with one `chunk` are read together.
"""
QUARANTINE = pa.schema([SAMPLE_ID, *_filled(uri=pa.string(), stage=pa.string(), reason=pa.string())])
LABELS = pa.schema([SAMPLE_ID, INDEX, pa.field("label", pa.int64()), pa.field("class_name", pa.string())])
PSEUDO_LABELS = pa.schema(
    [SAMPLE_ID, INDEX, *_filled(label=pa.int32(), confidence=pa.float32(), agreement=pa.float32())]
)
BETA_SEARCH = pa.schema(
    [
        *_filled(budget=pa.int64(), method=pa.string()),
        pa.field("beta", pa.float64()),
        *_filled(seed=pa.int64(), validation_accuracy=pa.float64(), steps=pa.int64(), epochs=pa.float64()),
    ]
)
CORESET = pa.schema(
    [
        SAMPLE_ID,
        INDEX,
        *_filled(uri=pa.string(), rank=pa.int64()),
        pa.field("score", pa.float32()),
        pa.field("pseudo_label", pa.int32()),
        *_filled(labeled=pa.bool_()),
    ]
)
EXPORT = pa.schema(
    [
        SAMPLE_ID,
        INDEX,
        *_filled(name=pa.string()),
        pa.field("place", pa.string()),
        *_filled(file_name=pa.string()),
        pa.field("id", pa.int64()),
    ]
)
"""What an export called its samples: one file `exports/NAME.parquet` for each export."""
EVALUATION = pa.schema(
    [
        *_filled(budget=pa.int64(), subset=pa.string(), seed=pa.int64(), model=pa.string()),
        *_filled(train_samples=pa.int64(), test_samples=pa.int64(), steps=pa.int64(), test_accuracy=pa.float64()),
        *_filled(seconds=pa.float64(), training=pa.string()),
    ]
)
COMPARISON = pa.schema(
    [
        *_filled(budget=pa.int64(), model=pa.string(), method=pa.string(), seeds=pa.int64()),
        *_filled(mean=pa.float64(), std=pa.float64(), half_width=pa.float64()),
        pa.field("difference", pa.float64()),
        pa.field("difference_half_width", pa.float64()),
        pa.field("select_seconds", pa.float64()),
        pa.field("total_seconds", pa.float64()),
    ]
)
MAP = pa.schema([SAMPLE_ID, INDEX, *_filled(x=pa.float32(), y=pa.float32())])
NEAR_DUPLICATES = pa.schema(
    [SAMPLE_ID, INDEX, *_filled(other_id=pa.string(), other=pa.int64(), similarity=pa.float32())]
)
COVERAGE = pa.schema(
    [
        *_filled(subset=pa.string()),
        pa.field("draw", pa.int64()),
        *_filled(coverage=pa.float64()),
        pa.field("redundancy", pa.float64()),
    ]
)

DYNAMICS_TYPES = {
    "aum": pa.float32(),
    "aum_logit": pa.float32(),
    "forgetting": pa.int32(),
    "never_learned": pa.bool_(),
    "correctness": pa.int32(),
    "last_correct": pa.bool_(),
    "el2n": pa.float32(),
    "entropy": pa.float32(),
    "target_probability_mean": pa.float32(),
    "target_probability_std": pa.float32(),
    "dual": pa.float32(),
    "dyn_unc": pa.float32(),
    "epochs_seen": pa.int32(),
}


def dynamics(*, tdds: bool = False) -> pa.Schema:
    """One row for each sample: its training dynamics; TDDS where the proxy was told to record it."""
    types = {**DYNAMICS_TYPES, "tdds": pa.float32()} if tdds else DYNAMICS_TYPES
    return pa.schema([SAMPLE_ID, INDEX, *(pa.field(name, kind) for name, kind in types.items())])


def samples(*, carries_bytes: bool, has_images: bool = True) -> pa.Schema:
    """One row for each usable image; `image` holds the encoded bytes where images have no files of their own.

    Where embeddings stand for images, `uri` names a row of theirs, and there are no columns of pictures.
    """
    fields = [SAMPLE_ID, INDEX, *_filled(uri=pa.string())]
    if not has_images:
        return pa.schema(fields)
    fields += _filled(width=pa.int32(), height=pa.int32(), content_hash=pa.string())
    return pa.schema([*fields, pa.field("image", pa.binary())] if carries_bytes else fields)


def shows_pictures(samples: pa.Schema) -> bool:
    """Whether samples are images, not embeddings alone."""
    return "content_hash" in samples.names


def embeddings(dim: int) -> pa.Schema:
    """One row for each sample: its vector (encoder output, or the user's), of unit length in half precision.

    `norm` is its length before; cosine needs none, but who wants the vector on its own scale multiplies by it.
    """
    return pa.schema([SAMPLE_ID, INDEX, *_filled(vector=pa.list_(pa.float16(), dim), norm=pa.float64())])


def pixels(side: int) -> pa.Schema:
    """One row for each image that networks have asked for: red, green and blue, each row by row from the top."""
    return pa.schema([SAMPLE_ID, INDEX, *_filled(pixels=pa.binary(3 * side**2))])


def neighbors(k: int) -> pa.Schema:
    """One row for each sample: its k most similar other samples by `index`, most similar first."""
    return pa.schema([SAMPLE_ID, INDEX, *_filled(ids=pa.list_(pa.int64(), k), similarity=pa.list_(pa.float32(), k))])
