"""What `elfs-ray plan` would have said, beside what a finished run took.

    python benchmarks/plan.py RUN_DIR [OPTION=VALUE ...]

The run's input and hardware must be here still; options mend paths that have moved. Quote ratios from an idle machine;
the load is printed.
"""

import os
import sys
from collections import defaultdict

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.planning.forecast import make_plan
from elfs_ray.stages import stage_named


def main() -> None:
    """Plan, read the manifest, print both."""
    store = RunFolder(sys.argv[1])
    manifest = store.manifest()
    plan = make_plan(load_config({}, overrides=sys.argv[2:], base=manifest["config"]))
    taken: dict[str, float] = defaultdict(float)
    for unit, record in store.records().items():
        taken[stage_named(unit.stage).command] += record.seconds
    print(f"{'stage':12} {'planned s':>10} {'taken s':>10} {'ratio':>6}")
    planned_sum = taken_sum = 0.0
    for stage in plan.stages:
        actual = taken.get(stage.stage)
        if actual is None:  # report and pixels are no entries of the manifest
            continue
        planned_sum, taken_sum = planned_sum + stage.seconds, taken_sum + actual
        print(f"{stage.stage:12} {stage.seconds:10.1f} {actual:10.1f} {stage.seconds / max(actual, 0.01):6.2f}")
    print(f"{'total':12} {planned_sum:10.1f} {taken_sum:10.1f} {planned_sum / taken_sum:6.2f}")
    print(f"{vars(plan.calibration.rates)}")
    print(f"load while planning {plan.load}, now {os.getloadavg()[0]:.2f}; planned for {plan.hardware}")
    print(f"the run's hardware: {manifest['hardware']}")


if __name__ == "__main__":
    main()
