"""What work needs before it is done: bytes and seconds from counts alone. Nothing here looks at a machine or a file.

Symbols: n rows, d width of the embeddings, float32 is 4 bytes and float16 is 2.
"""

from elfs_ray.config import NeighborsConfig

GIB = 2**30

# What a Ray worker takes beside its data; measured: 480 MiB with torch and faiss imported, the rest Arrow's buffers.
WORKER_BYTES = 700 * 2**20
# Inverted lists grow by doubling; measured, 1.3 times what they hold, and an id and a place for each row.
LIST_GROWTH, LIST_ROW_BYTES = 1.35, 16
# Rows that are normalised or added at a time, and candidates whose vectors are looked at together.
CHUNK_ROWS = 16_384

# Products per second of an exact search, deliberately low: for each core 50 GFLOP/s, for each GPU 10 TFLOP/s.
CORE_FLOPS, GPU_FLOPS = 50e9, 10e12


def exact_search_seconds(num_samples: int, dim: int, cpus: int, gpus: int) -> float:
    """Seconds of a search that compares every row with every other: 2 n^2 d operations."""
    return 2.0 * num_samples**2 * dim / (gpus * GPU_FLOPS or cpus * CORE_FLOPS)


def shard_bytes(options: NeighborsConfig, rows: int, dim: int, *, on_gpu: bool = False) -> int:
    """Bytes of main memory that an index shard takes, at most.

    Args:
        options: of the search, without `auto`.
        rows: that the shard holds.
        dim: width of the embeddings.
        on_gpu: an exact index is in the GPU's memory; the shard keeps float16 rows to rank by.
    """
    lists = 0
    if options.search == "ivf_flat":
        held = rows * (LIST_GROWTH * 4 * dim + LIST_ROW_BYTES)
    elif options.search == "ivf_pq":
        code = int(options.pq_m) * int(options.pq_nbits) / 8
        held = rows * (2 * dim + LIST_GROWTH * code + LIST_ROW_BYTES)
    elif options.search == "torch":
        held = rows * (4 + 2) * dim
    else:
        held = rows * (2 if on_gpu else 4) * dim
    if options.search.startswith("ivf"):
        lists = 4 * dim * int(options.nlist)
        if options.search == "ivf_pq":
            lists += 4 * dim * 2 ** int(options.pq_nbits)
    # The trained lists come as bytes and are read; a chunk is read in half precision, then normalised.
    work = 3 * 4 * dim * CHUNK_ROWS + 4 * dim * options.query_rows
    return int(WORKER_BYTES + held + 2 * lists + work)
