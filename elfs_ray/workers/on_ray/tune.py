"""Trials in actors of Ray Tune that are used again: a trial costs its training, not a process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import ASHAScheduler

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Search
from elfs_ray.workers.on_ray.errors import is_lost
from elfs_ray.workers.threads import use_torch_threads

Config = dict[str, Any]
Report = dict[str, Any]
TrialFunction = Callable[[Any, Config], Iterator[Report]]
Ended = Callable[[Config, Report], None]


def run_trials(
    trial: TrialFunction,
    shared: Any,
    configs: Sequence[Config],
    search: Search,
    ended: Ended,
    *,
    store: RunFolder,
    work: str,
    on_gpu: bool,
) -> None:
    """Run the trials; those that were lost with their actor again. Tune itself does that only once they have begun."""
    waiting = {search.name(config): config for config in configs}

    def end(config: Config, report: Report) -> None:
        ended(config, report)
        waiting.pop(search.name(config), None)

    folder, _, logs = search.logs.rpartition("/")
    for attempt in range(search.max_failures + 1):
        if not waiting:
            break
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_Trials, trial=trial, shared=shared),
                {"GPU": search.gpus} if on_gpu else {"CPU": 1.0},
            ),
            param_space={"trial": tune.grid_search(list(waiting.values()))},
            tune_config=tune.TuneConfig(
                metric=search.metric,
                mode="max",
                reuse_actors=True,
                scheduler=ASHAScheduler(max_t=search.parts, reduction_factor=search.keep) if search.keep else None,
                trial_dirname_creator=lambda run: search.name(run.config["trial"]),
            ),
            run_config=tune.RunConfig(
                name=logs,
                storage_path=store.path(work, folder),
                storage_filesystem=None if store.is_local else store.filesystem,
                failure_config=tune.FailureConfig(max_failures=search.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[TBXLoggerCallback(), _Ended(end)],
                verbose=0,
            ),
        )
        for error in tuner.fit().errors:
            if attempt == search.max_failures or not is_lost(error):
                raise error


class _Trials(tune.Trainable):
    """Runs one trial after the other; a call of `step` goes on to its next report."""

    def setup(self, config: dict[str, Any], trial: TrialFunction, shared: Any) -> None:  # type: ignore[override]
        """Arguments by `with_parameters`."""
        use_torch_threads(1)
        self._trial, self._shared = trial, shared
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial."""
        self._reports = self._trial(self._shared, new_config["trial"])
        return True

    def step(self) -> Report:
        """The next report; the last one ends the trial."""
        return next(self._reports)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial takes seconds, and starts over when its actor is lost."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""


class _Ended(tune.Callback):
    """Gives on the last report of each trial that has ended, or that ASHA stopped: it counts as it was when it did."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended

    def on_trial_complete(self, *, trial: Trial, **_: object) -> None:  # type: ignore[override] # Tune calls it by name
        """Unless the trial was cut short with the whole search."""
        report = trial.last_result or {}
        if report.get("done"):
            self._ended(trial.config["trial"], report)
