"""Ray job: a coreset and its evaluation, without the report. Takes the options of `elfs-ray run`, with `--labels`."""

import os
import sys

# A script's own folder comes first in the search path, where `select.py` would hide the standard library's `select`.
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.dirname(os.path.realpath(__file__))]

from elfs_ray.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.argv[1:1] = ["run", "--until", "evaluate"]
    main()
