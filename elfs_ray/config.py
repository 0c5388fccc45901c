"""One typed, validated configuration for all stages (`config_loading` builds it).

Options whose default is `"auto"` are chosen when their stage starts, from the device and the data
(`planning.auto_options`); the manifest records both what was asked and what was chosen. Options marked as execution
options (workers, actors, block sizes) change how fast a result comes, not which; they are left out of the fingerprints
that decide what is redone.
"""

import contextlib
import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from elfs_ray.errors import UsageError
from elfs_ray.locations import absolute

Auto = Literal["auto"]
EXECUTION = "execution_only"
_SUPERVISED = "-supervised"
_BUDGET_FORMS = "a budget is a count (5000) or a fraction to keep (0.1)"


def _execution(default: Any, description: str, **constraints: Any) -> Any:
    """A field that changes speed or memory, never the result."""
    return Field(default, description=description, json_schema_extra={EXECUTION: True}, **constraints)


def parse_budget(value: float | str) -> float:
    """Read a labelling budget: a whole number is a count of images, one with a point the fraction to keep."""
    if isinstance(value, bool):
        raise ValueError(_BUDGET_FORMS)  # noqa: TRY004 - pydantic reports these
    if isinstance(value, (int, float)):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError, TypeError):
            return kind(value)
    raise ValueError(_BUDGET_FORMS)


def _absolute_labels(value: str | None) -> str | None:
    """The same for labels, which may be no file."""
    return value if (value or "").partition(":")[0] in ("folders", "column") else absolute(value)


Budget = Annotated[int | float, BeforeValidator(parse_budget)]
Labels = Annotated[str, AfterValidator(_absolute_labels)]
Location = Annotated[str, Field(min_length=1), AfterValidator(absolute)]
ImageModel = Literal["resnet-small", "resnet18", "resnet34", "resnet50"]
EvaluationModel = Literal["linear", "mlp", ImageModel]
AutoInt = Annotated[int, Field(ge=1)] | Auto
AutoFloat = Annotated[float, Field(gt=0)] | Auto
Arithmetic = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown option is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """Every option that can change the result, as plain JSON values."""
        extras = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        hidden = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get(EXECUTION)}
        return self.model_dump(mode="json", exclude=hidden)


class IngestConfig(Section):
    """Listing, checking and numbering the images."""

    input_kind: Literal[Auto, "folder", "parquet", "table", "webdataset", "hugging-face"] = Field(
        "auto", description="what the input is; auto: what its files say, by their endings, numbers and sizes"
    )
    image_column: str | None = Field(None, description="tables: column of bytes or paths; tar shards: their ending")
    id_column: str | None = Field(None, description="tables: column with the sample ids (found by name)")
    max_bad_fraction: float = Field(0.05, ge=0, le=1, description="stop when a larger share of inputs is unusable")
    max_pixels: int = Field(100_000_000, ge=1, description="refuse to decode larger images (decompression bombs)")
    chunk_rows: int = _execution(1024, "inputs checked as one unit of work and of resume", ge=1)


class EmbedConfig(Section):
    """Turning images into embeddings."""

    encoder: str = Field(
        "efficientnet-lite0",
        description="efficientnet-lite0..2, open_clip:MODEL/PRETRAINED, timm:NAME, torchvision:NAME, hub:swav_resnet50",
    )
    weights: Location | None = Field(None, description="local weights file for the encoder instead of a download")
    vectors: Location | None = Field(
        None,
        description="embeddings that are there already: Parquet with ids, or NAME.npy, with ids on the lines of "
        "NAME.ids.txt beside it, else in the order of the images",
    )
    test_vectors: Location | None = Field(None, description="the same for separate test images; default: embed.vectors")
    image_size: AutoInt = Field("auto", description="pixels a side for the encoder; auto: native on GPU, less on CPU")
    dtype: Literal[Auto, Arithmetic, "float16"] = Field("auto", description="arithmetic of the encoder")
    decode: Literal[Auto, "cpu", "gpu"] = Field(
        "auto", description="where JPEGs are decoded; auto: on a GPU, if it can"
    )
    batch_size: AutoInt = _execution("auto", "images in one forward pass")
    actors: AutoInt = _execution("auto", "encoders at most; auto: one a GPU; without, one a core and 4,096 images")
    compile: bool = _execution(False, "torch.compile the encoder: slow to start, faster for many images")
    checkpoint_rows: int = _execution(2048, "embeddings written at once: what a kill can lose, for each actor", ge=1)


class NeighborsConfig(Section):
    """The k nearest neighbours by cosine similarity."""

    k: AutoInt = Field("auto", description="neighbours of each sample; auto: 50, or half of the others if that is less")
    search: Literal["auto", "faiss", "torch", "ivf_flat", "ivf_pq"] = Field(
        "auto",
        description="torch: exact, on GPUs rounded products ranked exactly; faiss: exact; ivf_flat, ivf_pq: inverted "
        "lists for millions; auto: torch, up to half an hour. Recall is measured of lists and on GPUs",
    )
    nlist: AutoInt = Field("auto", description="ivf: inverted lists")
    nprobe: AutoInt = Field("auto", description="ivf: lists searched for each query; more find more")
    pq_m: AutoInt = Field("auto", description="ivf_pq: codes for each row; must divide the width of the embeddings")
    pq_nbits: Annotated[int, Field(ge=2, le=12)] | Auto = Field("auto", description="ivf_pq: bits of a code")
    oversample: Annotated[float, Field(ge=1)] | Auto = Field("auto", description="candidates ranked exactly, times k")
    shards: AutoInt = _execution("auto", "index shards, one actor each")
    query_rows: int = _execution(4096, "queries searched and saved as one unit", ge=1)


class PseudoLabelsConfig(Section):
    """TEMI clustering into pseudo-labels (Adaloglou et al., BMVC 2023)."""

    pca_dim: Annotated[int, Field(ge=0)] | Auto = Field("auto", description="reduce embeddings first; 0: do not")
    heads: Annotated[int, Field(ge=2)] | Auto = Field("auto", description="clustering heads trained together")
    hidden_dim: AutoInt = Field("auto", description="width of each head's hidden layer")
    bottleneck_dim: AutoInt = Field("auto", description="width of each head's normalised bottleneck")
    num_neighbors: AutoInt = Field(
        "auto",
        description="nearest neighbours that a sample is paired with; auto: all that were found, or half of a class of "
        "average size if that is less",
    )
    epochs: AutoInt = Field("auto", description="passes over the samples")
    batch_size: AutoInt = Field("auto", description="pairs in one step, over all workers")
    learning_rate: AutoFloat = Field("auto", description="AdamW, for a batch of 256; scaled with the batch")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW, on matrices")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the epochs in which the learning rate rises")
    beta: float = Field(0.6, gt=0, le=1, description="exponent of the pointwise mutual information")
    student_temperature: float = Field(0.1, gt=0, description="divides the student's logits")
    teacher_temperature: float = Field(0.1, gt=0, description="divides the teacher's logits")
    teacher_momentum: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="share of the old teacher kept at each step; auto: 0.996, less where steps are few"
    )
    prior_momentum: float = Field(0.9, ge=0, lt=1, description="share of the old class prior kept at each step")
    dtype: Literal[Auto, Arithmetic] = Field("auto", description="of the heads; auto: bfloat16 on GPUs; sums: float32")
    assignment: Literal["mean", "best_head"] = Field(
        "mean", description="mean of the aligned heads' probabilities, or the head with the lowest training loss"
    )
    workers: AutoInt = _execution("auto", "training workers")
    checkpoint_epochs: int = _execution(10, "epochs between checkpoints", ge=1)


class ProxyConfig(Section):
    """Proxy classifier trained on pseudo-labels, whose training dynamics rate each sample."""

    model: Literal["auto", "mlp", ImageModel] = Field(
        "auto", description="mlp on embeddings (auto without a GPU, or images), or a network on images (auto: resnet18)"
    )
    hidden_dim: int = Field(512, ge=1, description="mlp: width of the hidden layer")
    pca_dim: Annotated[int, Field(ge=0)] | Auto = Field(
        "auto",
        description="mlp: principal components of the embeddings that it sees; auto: 256, of wider ones; 0: see all",
    )
    image_size: AutoInt = Field("auto", description="on images: pixels a side")
    epochs: AutoInt = Field("auto", description="passes over the samples")
    batch_size: int = Field(256, ge=1, description="samples in one step, over all workers")
    learning_rate: AutoFloat = Field("auto", description="SGD with Nesterov momentum, cosine to zero")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="of SGD, on all parameters")
    dtype: Literal[Auto, Arithmetic] = Field("auto", description="auto: bfloat16 on GPUs; on images wherever it's fast")
    folds: int = Field(1, ge=1, description="above 1: dynamics of samples not trained on, one training for each fold")
    tdds: bool = Field(False, description="record TDDS too, which holds N x C probabilities in memory")
    workers: AutoInt = _execution("auto", "training workers")
    checkpoint_epochs: int = _execution(10, "epochs between checkpoints", ge=1)


class BetaSearchConfig(Section):
    """Search of beta, the share of hardest samples dropped (and, for `auto`, of the method), on pseudo-labels."""

    betas: list[Annotated[float, Field(ge=0, lt=1)]] | Auto = Field("auto", description="candidates; auto: 0, 0.1, ...")
    model: EvaluationModel = Field("mlp", description="what trials train: best what you will train on the coreset")
    image_size: AutoInt = Field("auto", description="on images: pixels a side")
    dtype: Literal[Auto, Arithmetic] = Field("auto", description="auto: bfloat16 on GPUs; on images wherever it's fast")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the samples that trials are judged on")
    seeds: int = Field(3, ge=1, description="trainings for each candidate")
    steps: AutoInt = Field(
        "auto",
        description="optimizer steps of each training; auto: 500, or ten passes over the coreset if more; on "
        "embeddings a hundred passes if fewer, but at least 200",
    )
    batch_size: AutoInt = Field("auto", description="samples in one step; auto: as `evaluate` trains this model")
    learning_rate: AutoFloat = Field("auto", description="SGD; auto: as `evaluate` trains this model")
    weight_decay: Annotated[float, Field(ge=0)] | Auto = Field("auto", description="of SGD; auto: the same")
    scheduler: Literal["none", "asha"] = Field(
        "none",
        description="asha: stop the worse two thirds of the candidates early, twice. Saves up to three quarters of the "
        "steps; which ones it stops depends on the order in which they report, so that beta may differ between runs",
    )
    max_failures: int = _execution(2, "times a lost trial is tried again", ge=0)


class SelectConfig(Section):
    """The selection method and its options."""

    method: str = Field("elfs", description="a name that `elfs-ray methods` lists")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the method, such as score")
    beta: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="use this beta and skip the search")
    balance: Literal["auto", "none", "cluster"] = Field(
        "auto", description="cluster: a share of the budget for each pseudo-label; auto: for elfs, mixed, ccs, auto"
    )
    labeled: Labels | None = Field(
        None,
        description="samples that have labels already, in a form that `labels` takes: they count towards the budget",
    )
    supervised: bool = Field(False, description="a baseline: labels of `evaluate.labels` in place of pseudo-labels")

    @property
    def name(self) -> str:
        """What its coresets are called: a coreset that saw labels is never taken for one that did not."""
        return f"{self.method}{_SUPERVISED}" if self.supervised else self.method


def is_supervised(name: str) -> bool:
    """Whether a `SelectConfig.name` is that of a supervised baseline."""
    return name.endswith(_SUPERVISED)


class EvaluateConfig(Section):
    """Accuracy of a model trained with true labels on the coreset, beside random subsets of the same size."""

    labels: Labels | None = Field(None, description="true labels: file, `folders`, `folders:last`, `column:NAME`")
    test_input: Location | None = Field(None, description="separate test images; without: candidates not trained on")
    test_labels: Labels | None = Field(None, description="labels of the test images; default: in the form of `labels`")
    models: list[EvaluationModel] = Field(
        ["mlp"],
        min_length=1,
        description="what to train: linear, mlp (on embeddings); on images resnet-small (for a CPU), resnet18, 34, 50",
    )
    seeds: int = Field(5, ge=2, description="trainings for each subset and model, with another random subset each")
    hidden_dim: int = Field(512, ge=1, description="mlp: width of the hidden layer")
    image_size: AutoInt = Field("auto", description="on images: pixels a side")
    steps: AutoInt = Field(
        "auto",
        description="optimizer steps of each training, whatever the budget; auto: linear, mlp 1000, resnet-small 2000, "
        "others 40,000 (resnet50: 300,000)",
    )
    batch_size: AutoInt = Field("auto", description="samples in one step; auto: 128, and 256 for resnet18 and larger")
    learning_rate: AutoFloat = Field("auto", description="SGD with Nesterov momentum, cosine to zero")
    weight_decay: float = Field(5e-4, ge=0, description="of SGD, on all parameters")
    dtype: Literal[Auto, Arithmetic] = Field("auto", description="auto: bfloat16 on GPUs; on images wherever it's fast")
    hide: float = Field(0.0, ge=0, lt=1, description="KAKURENBO: hide up to this share, the learned, in each epoch")
    embeddings_of: Location | None = Field(
        None, description="linear, mlp: take the embeddings of this run folder over the same images, by another encoder"
    )


class ReportConfig(Section):
    """The HTML report."""

    thumbnails: int = Field(96, ge=0, description="pictures in each gallery")
    map: Literal["tsne", "pca"] = Field("tsne", description="how embeddings become points in the plane")
    map_points: int = Field(20_000, ge=0, description="images on the map, drawn at random if there are more; 0: no map")


class RayConfig(Section):
    """Whether to work on Ray, and how to reach or start it."""

    mode: Literal[Auto, "always", "never"] = Field(
        "auto",
        description="auto: up to 10,000 images on one machine without Ray, in the process of the run; always, never: "
        "with or without Ray, however many",
    )
    address: str | None = Field(None, description="cluster address; without: $RAY_ADDRESS, else a local Ray")
    num_cpus: int | None = Field(None, ge=1, description="processors to use, or that an autoscaling cluster may start")
    num_gpus: int | None = Field(None, ge=0, description="GPUs to use, or that an autoscaling cluster may start")
    object_store_mb: int | None = Field(None, ge=80, description="local Ray: memory of the object store, MiB")


class RunConfig(Section):
    """A whole run: the input, the budgets, and one section for each stage."""

    input: Location | None = Field(
        None,
        description="images: a folder, Parquet, a table of paths (CSV, TSV, JSON lines), tar shards, a saved Hugging "
        "Face data set; local, s3://, gs:// or hf://; without: `embed.vectors` are all there is",
    )
    num_classes: Annotated[int, Field(ge=2)] | None = Field(
        None, description="clusters to form: the number of classes you expect; for methods that need pseudo-labels"
    )
    budgets: list[Budget] = Field(min_length=1, description="labelling budgets: counts (5000) or fractions (0.1)")
    name: str | None = Field(None, description="of the run, in its report; default: that of its folder")
    seed: int = Field(0, ge=0, description="of every random choice")
    allow_unmatched: bool = Field(False, description="go on where labels belong to no image, and say how many")
    ingest: IngestConfig = IngestConfig()
    embed: EmbedConfig = EmbedConfig()
    neighbors: NeighborsConfig = NeighborsConfig()
    pseudo_labels: PseudoLabelsConfig = PseudoLabelsConfig()
    proxy: ProxyConfig = ProxyConfig()
    beta_search: BetaSearchConfig = BetaSearchConfig()
    select: SelectConfig = SelectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @property
    def clusters(self) -> int:
        """How many clusters to form.

        Raises:
            UsageError: nobody said how many.
        """
        if self.num_classes is None:
            raise UsageError("pseudo-labels need the number of classes that you expect; pass --num-classes")
        return self.num_classes

    @property
    def location(self) -> str:
        """Where the samples come from: the images, or the embeddings that stand for them."""
        return self.input or str(self.embed.vectors)


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex, 16 characters) of plain JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
