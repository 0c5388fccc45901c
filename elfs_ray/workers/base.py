"""What stage bodies ask of those who do the work. `workers.on_ray` answers it; no stage knows how.

What a body hands over is a plain function or class of a module. It takes what it works on as arguments and writes what
is large to the run folder.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.hardware import Hardware, Memory
from elfs_ray.workers.progress import Counter

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
TaskT = TypeVar("TaskT")
Threads = Callable[[], int]
"""Says, where it is called, how many threads a worker may use there."""
PROGRESS_STEPS = 20


class Handle(Protocol[T_co]):
    """A value that workers hold, or will: cheap to send, and read once for each machine.

    As an argument of a task of its own it arrives as the value; inside of other arguments it stays a handle.
    """

    def result(self) -> T_co:
        """Wait for the value; raises what the task raised."""

    @property
    def ended(self) -> bool:
        """Whether the value is there, or its task failed."""


class Pool(Protocol):
    """Workers that each hold an object. Cheap to send: tasks may ask it, too."""

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What the method of each object answers, in order."""

    def end(self) -> None:
        """Give their memory back at once."""


class Training(Protocol):
    """What the loop of a training worker may ask. What workers share of a batch: see `core.data_parallel`."""

    @property
    def device(self) -> "torch.device":
        """What this worker computes on."""

    @property
    def is_first(self) -> bool:
        """Whether this worker writes results and checkpoints."""

    def load(self, load: Callable[[dict[str, Any]], None]) -> int:
        """Give the last checkpoint's state, if there is one, to `load`; returns the number of epochs done."""

    def save(self, metrics: dict[str, Any], state: dict[str, Any], epochs_done: int) -> None:
        """Keep the first worker's state as checkpoint; every worker must call it."""

    def tell(self, metrics: dict[str, Any]) -> None:
        """Say what the training found: `Workers.train` returns it. For the first worker alone."""

    def tells_progress(self, step: int, steps: int) -> bool:
        """Whether this worker says how far it is after a step of an epoch: the first one does, now and then."""
        return self.is_first and ((step + 1) % PROGRESS_STEPS == 0 or step + 1 == steps)


@dataclass(frozen=True)
class Source:
    """What begins a stream: `read` yields the rows of one of the items; each is a task."""

    read: Callable[[Any], Iterator[pa.Table]]
    items: Sequence[Any]
    cpus: float
    memory: int


@dataclass(frozen=True)
class Step:
    """A step of a stream: what makes a batch of another.

    Attributes:
        function: a function of a batch; or a class, of which `holders` workers make one object each, and call it.
        rows: of a batch.
        arguments: by name, further ones of the function, or those of the class.
        as_table: whether batches come as Arrow tables; else as arrays by name.
        cpus, gpus, memory: what each call, or each worker with an object, asks for.
        holders: of an object each, at most. Those with a GPU grow in number; others all start at once.
        at_once: calls of one object, by threads.
    """

    function: Callable[..., Any]
    rows: int
    arguments: Mapping[str, Any]
    cpus: float
    as_table: bool = False
    gpus: float = 0.0
    memory: int | None = None
    holders: int = 0
    at_once: int = 1


@dataclass(frozen=True)
class Search:
    """How trials run, and which of them go on.

    Attributes:
        metric: what the larger is the better, in each report.
        parts: reports of a trial that runs to its end.
        keep: of trials that come as far, one in so many goes on (ASHA); 0: all do.
        gpus: share of a GPU for each, where there are any; else a processor.
        max_failures: how often trials are tried again that were lost with their worker.
        name: of a trial, for its logs.
        logs: below the work folder, for TensorBoard.
    """

    metric: str
    parts: int
    keep: int
    gpus: float
    max_failures: int
    name: Callable[[dict[str, Any]], str] = field(repr=False)
    logs: str


class Workers(Protocol):
    """All processors and GPUs of a machine or a cluster. What tasks raise is raised where their results are taken."""

    @property
    def hardware(self) -> Hardware:
        """What stages plan with."""

    def memory(self) -> Memory:
        """Main memory that is there."""

    def threads(self, sharing: int = 1) -> Threads:
        """For one of so many equal workers that share everything."""

    def counter(self, done: int = 0) -> Counter:
        """A count of its own, of units of which some are finished already."""

    def share(self, value: T) -> Handle[T]:
        """Lay a value where all workers find it."""

    def call(
        self, function: Callable[..., T], *arguments: Any, cpus: float = 1.0, memory: int = 0, here: bool = False
    ) -> T:
        """The result of one task.

        Args:
            function: what it does.
            arguments: of the function.
            cpus: that it asks for.
            memory: the same.
            here: on the machine of the run itself, which may be the only one with a file that the user names.
        """

    def begin(
        self, function: Callable[..., T], *arguments: Any, cpus: float = 1.0, gpus: float = 0.0, memory: int = 0
    ) -> Handle[T]:
        """Start a task. Its result stays with the workers until it is asked for."""

    def begin_several(
        self, function: Callable[..., tuple[Any, ...]], *arguments: Any, results: int, cpus: float = 1.0
    ) -> list[Handle[Any]]:
        """Start a task that gives a tuple of so many results: a handle for each of them."""

    def results(self, handles: Sequence[Handle[T]]) -> list[T]:
        """Wait for all of them; raises as soon as one has failed."""

    def map(
        self,
        function: Callable[..., T],
        items: Iterable[tuple[Any, ...]],
        *first: Any,
        cpus: float,
        at_once: int | None = None,
    ) -> Iterator[T]:
        """Results of `function(*first, *item)` for each item, in order.

        Args:
            function: work that may be done again when a worker is lost.
            items: the next is taken when there is room for its task.
            first: arguments that all tasks have.
            cpus: of each task.
            at_once: the most that are submitted and not yet given; None: what keeps all processors at work.
        """

    def on_each_machine(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function on every machine that is there now; one that is lost meanwhile is passed over."""

    def stream(self, source: Source, *steps: Step, block_bytes: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of the last step, in any order, as they are made.

        No more is under way than finds room; `block_bytes` go on together between steps.
        """

    def pool(
        self,
        factory: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        *,
        cpus: float,
        gpus: float = 0.0,
        memory: int = 0,
    ) -> Pool:
        """Workers with `factory(*arguments)` each, made again when one is lost."""

    def train(
        self, loop: Callable[[TaskT, Training], None], task: TaskT, store: RunFolder, work: str, workers: int
    ) -> dict[str, Any]:
        """Run `loop(task, training)` on so many workers that average gradients; returns what it told.

        A worker that is lost is replaced, and the loop starts again from the last checkpoint; so does a second run with
        the same work folder.
        """

    def trials(
        self,
        trial: Callable[[Any, dict[str, Any]], Iterator[dict[str, Any]]],
        shared: Handle[Any],
        configs: Sequence[dict[str, Any]],
        search: Search,
        ended: Callable[[dict[str, Any], dict[str, Any]], None],
        *,
        store: RunFolder,
        work: str,
    ) -> None:
        """Run `trial(shared, config)` for each config, some of which may be stopped early.

        Args:
            trial: trains one part after the other and yields a report of each; `done` is true in the last.
            shared: what all trials read.
            configs: one for each trial.
            search: how.
            ended: takes config and last report of each trial that came to its end or was stopped.
            store: the run folder.
            work: the work folder, for logs.
        """
