"""The Arrow schema of every artifact: readable with pandas, DuckDB or pyarrow alone.

Each artifact is a folder of Parquet files whose rows carry `sample_id` (the user's own id) and, once the images are
numbered, `index` (dense, in the order of the input, fixed at ingest). Parts and rows are in ascending `index`,
but for `pixels`.
"""

import pyarrow as pa

SAMPLE_ID = pa.field("sample_id", pa.string(), nullable=False)
INDEX = pa.field("index", pa.int64(), nullable=False)

LISTING = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.int32()),
        pa.field("row", pa.int64()),
        pa.field("skip", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("error", pa.string()),
    ]
)
"""Where each input is: a file, a member of an archive, or `rows` rows of a table that stand together.

`position` is that of its first input. Of a table, `group` is the row group or record batch, `row` the number of the
first row in the file, and `skip` the rows of the group before it. `offset` and `size` are bytes in the file, `error`
is what is wrong with an input already. Inputs with one `chunk` are read together.
"""
QUARANTINE = pa.schema(
    [
        SAMPLE_ID,
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
LABELS = pa.schema([SAMPLE_ID, INDEX, pa.field("label", pa.int64()), pa.field("class_name", pa.string())])
PSEUDO_LABELS = pa.schema(
    [
        SAMPLE_ID,
        INDEX,
        pa.field("label", pa.int32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("agreement", pa.float32(), nullable=False),
    ]
)
BETA_SEARCH = pa.schema(
    [
        pa.field("budget", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("beta", pa.float64()),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("validation_accuracy", pa.float64(), nullable=False),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("epochs", pa.float64(), nullable=False),
    ]
)
CORESET = pa.schema(
    [
        SAMPLE_ID,
        INDEX,
        pa.field("uri", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("pseudo_label", pa.int32()),
        pa.field("labeled", pa.bool_(), nullable=False),
    ]
)
EXPORT = pa.schema(
    [
        SAMPLE_ID,
        INDEX,
        pa.field("name", pa.string(), nullable=False),
        pa.field("place", pa.string()),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("id", pa.int64()),
    ]
)
"""What an export called its samples: one file `exports/NAME.parquet` for each export."""
EVALUATION = pa.schema(
    [
        pa.field("budget", pa.int64(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("train_samples", pa.int64(), nullable=False),
        pa.field("test_samples", pa.int64(), nullable=False),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("test_accuracy", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("training", pa.string(), nullable=False),
    ]
)
COMPARISON = pa.schema(
    [
        pa.field("budget", pa.int64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("seeds", pa.int64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("std", pa.float64(), nullable=False),
        pa.field("half_width", pa.float64(), nullable=False),
        pa.field("difference", pa.float64()),
        pa.field("difference_half_width", pa.float64()),
        pa.field("select_seconds", pa.float64()),
        pa.field("total_seconds", pa.float64()),
    ]
)
MAP = pa.schema(
    [SAMPLE_ID, INDEX, pa.field("x", pa.float32(), nullable=False), pa.field("y", pa.float32(), nullable=False)]
)
NEAR_DUPLICATES = pa.schema(
    [
        SAMPLE_ID,
        INDEX,
        pa.field("other_id", pa.string(), nullable=False),
        pa.field("other", pa.int64(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
    ]
)
COVERAGE = pa.schema(
    [
        pa.field("subset", pa.string(), nullable=False),
        pa.field("draw", pa.int64()),
        pa.field("coverage", pa.float64(), nullable=False),
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
    fields = [SAMPLE_ID, INDEX, pa.field("uri", pa.string(), nullable=False)]
    if not has_images:
        return pa.schema(fields)
    fields += [
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
    ]
    return pa.schema([*fields, pa.field("image", pa.binary())] if carries_bytes else fields)


def shows_pictures(samples: pa.Schema) -> bool:
    """Whether samples are images, not embeddings alone."""
    return "content_hash" in samples.names


def embeddings(dim: int) -> pa.Schema:
    """One row for each sample: its vector (encoder output, or the user's), of unit length in half precision.

    `norm` is its length before; cosine needs none, but who wants the vector on its own scale multiplies by it.
    """
    vector = pa.field("vector", pa.list_(pa.float16(), dim), nullable=False)
    return pa.schema([SAMPLE_ID, INDEX, vector, pa.field("norm", pa.float64(), nullable=False)])


def pixels(side: int) -> pa.Schema:
    """One row for each image that networks have asked for: red, green and blue, each row by row from the top."""
    return pa.schema([SAMPLE_ID, INDEX, pa.field("pixels", pa.binary(3 * side**2), nullable=False)])


def neighbors(k: int) -> pa.Schema:
    """One row for each sample: its k most similar other samples by `index`, most similar first."""
    return pa.schema(
        [
            SAMPLE_ID,
            INDEX,
            pa.field("ids", pa.list_(pa.int64(), k), nullable=False),
            pa.field("similarity", pa.list_(pa.float32(), k), nullable=False),
        ]
    )
