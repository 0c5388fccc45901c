"""Coresets in the forms that annotation tools and training code read.

| format | what is written |
|---|---|
| csv, parquet, jsonl | one table: rank, sample_id, uri, width, height, score, pseudo_label, labeled |
| label-studio | `tasks.json` to import, and `labels.xml`, the labelling interface |
| cvat | `annotations.xml`, CVAT for images 1.1, and `images.txt`, what to upload to the task |
| coco | `annotations.json`; pseudo-labels as boxes around whole images |
| fiftyone | `samples.json` and `metadata.json` of a FiftyOneDataset |
| huggingface | Parquet with an `image` column that `datasets` decodes |
| webdataset | tar shards of `KEY.jpg` (or png, ...) and `KEY.json` |
| symlinks | a folder of links to the images, in rank order |

Pictures that lie in a table, not in files, are written to `images/` beside what names them. Label Studio shows no file
by its path: give it URLs (`--url`), for files that it serves itself `--url '/data/local-files/?d=FOLDER'`. What each
sample is called is kept in the run folder (`records.py`): by that, and by nothing else, `import-labels` knows it again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from elfs_ray.artifacts.filesystems import refuse_credentials
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.schema import shows_pictures
from elfs_ray.artifacts.table import Table
from elfs_ray.data.annotations import LABEL_CONTROL
from elfs_ray.data.files import new_folder
from elfs_ray.errors import UsageError
from elfs_ray.exports import annotation, folders, tables
from elfs_ray.exports.records import Exported, write_record
from elfs_ray.exports.rows import Coreset, only_coreset, read_coreset

__all__ = ["FORMATS", "export_coreset", "only_coreset"]

FORMATS: dict[str, Callable[[Coreset, Path], list[Exported]]] = {
    **{form: partial(tables.write_table, form) for form in tables.WRITERS},
    "label-studio": annotation.write_label_studio,
    "cvat": annotation.write_cvat,
    "coco": annotation.write_coco,
    "fiftyone": folders.write_fiftyone,
    "huggingface": folders.write_hugging_face,
    "webdataset": folders.write_webdataset,
    "symlinks": folders.write_symlinks,
}
"""Name -> what writes a coreset into an empty folder, and says what it called each sample."""
TABLES = tuple(tables.WRITERS)
"""Those that need no images."""
_QUESTIONS = {"label-studio": LABEL_CONTROL}


def export_coreset(
    store: RunFolder,
    name: str,
    form: str,
    out: str | Path,
    *,
    pre_annotations: bool = False,
    url: str | None = None,
) -> Path:
    """Write one coreset of a run folder; the folder appears whole or not at all.

    What the export called each sample is kept in the run folder (`exports/`), for `import-labels`.

    Args:
        store: the run folder.
        name: of the coreset, METHOD/BUDGET.
        form: one of `FORMATS`.
        out: folder to write, which must not be there yet or be empty.
        pre_annotations: give pseudo-labels to the annotators, as `cluster NUMBER`.
        url: where the images are reached by the annotation tool, in place of the folder that the run read.

    Returns:
        The folder.

    Raises:
        UsageError: an unknown format or coreset, a folder that is not empty, images that cannot be read.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown export format {form!r}; known: {', '.join(FORMATS)}")
    if form not in TABLES and store.exists("samples") and not shows_pictures(Table(store, "samples").schema):
        raise UsageError(
            f"export format {form!r} shows images, and {store.uri} has embeddings alone; use {', '.join(TABLES)}"
        )
    out = Path(out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and is no empty folder; choose another --out")
    if url is not None:
        refuse_credentials(url)
    coreset = read_coreset(store, name, pre_annotations=pre_annotations, url=url)
    with new_folder(out) as folder:
        exported = FORMATS[form](coreset.at(out), folder)
        # First the record, then the folder: a kill between leaves a record too many, never an export without one.
        write_record(store, form, name, _QUESTIONS.get(form), out, exported)
    return out
