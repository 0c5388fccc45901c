"""Commands about what a run folder holds: status, export, import-labels."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from elfs_ray.artifacts.record import Records
from elfs_ray.cli.app import app, held_manifest, out, run_folder, say
from elfs_ray.cli.options import DebugOption, RunArgument, complete_formats
from elfs_ray.run.told import result


@app.command()
def status(run_dir: RunArgument) -> None:
    """Show what a run folder holds, what of it is stale, and what is missing."""
    manifest = held_manifest(run_dir)
    records = Records.from_json(manifest.get("records", {}))
    table = Table("what is there", box=None, pad_edge=False)
    for name in ("seconds", "memory MB"):
        table.add_column(name, justify="right")
    for record in records.current.values():
        table.add_row(escape(result(record)), f"{record.seconds:.1f}", f"{record.peak_memory_mb:,}")
    say(f"run {manifest['name']} over {manifest['input']}")
    out.print(table)
    for unit, why in records.stale.items():
        say(f"stale: {unit}, because {why}; it is hidden until the next run redoes it or removes it")
    finished = manifest["finished"]
    say(f"finished {finished}" if finished else "not finished: run the same command to go on")


@app.command()
def export(
    run_dir: RunArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="csv, parquet, jsonl, label-studio, cvat, coco, fiftyone, ...",
            autocompletion=complete_formats,
        ),
    ],
    out_dir: Annotated[str, typer.Option("--out", "-o", help="Folder to write.")],
    coreset: Annotated[
        str | None, typer.Option("--coreset", help="METHOD/BUDGET; needed if there are several.")
    ] = None,
    pre_annotations: Annotated[
        bool, typer.Option("--pre-annotations", help="Give pseudo-labels to annotators.")
    ] = False,
    url: Annotated[str | None, typer.Option("--url", help="Where the tool reaches the images.")] = None,
    debug: DebugOption = False,
) -> None:
    """Write a coreset in the form that an annotation tool or training code reads."""
    from elfs_ray.artifacts.table import Table as Artifact
    from elfs_ray.exports import export_coreset, only_coreset

    store = run_folder(run_dir)
    name = coreset or only_coreset(store)
    written = export_coreset(store, name, to, out_dir, pre_annotations=pre_annotations, url=url)
    say(f"{Artifact(store, f'coresets/{name}').rows:,} images of {name} in {written}")


@app.command(name="import-labels")
def import_labels(
    run_dir: RunArgument,
    annotations: Annotated[
        str,
        typer.Argument(
            help="What the tool exported: Label Studio JSON, CVAT XML, COCO JSON, FiftyOne's samples.json, a table "
            "with sample_id, or a folder of class folders."
        ),
    ],
    out_file: Annotated[str, typer.Option("--out", "-o", help="CSV file to write; give it to `--labeled`.")],
    question: Annotated[
        str | None,
        typer.Option("--question", help="Control, field or column with the labels; default: the exported one."),
    ] = None,
    from_export: Annotated[
        str | None, typer.Option("--export", help="Export that it is of: a name in RUN_DIR/exports.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="What the tool has put before each exported name.")] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Refuse unless every exported image has a label.")] = False,
    debug: DebugOption = False,
) -> None:
    """Bring annotations back, as labels that the next run takes with `--labeled`."""
    from elfs_ray.exports.labels import write_labels

    store = run_folder(run_dir)
    matched = write_labels(
        store, annotations, out_file, question=question, export=from_export, prefix=prefix, strict=strict
    )
    say(f"{matched.summary(out_file)}; go on with `--labeled {out_file}`")
