"""Ray job: the whole pipeline. Takes the options of `elfs-ray run`, reads them nowhere else, and ends with its status.

ray job submit --working-dir . -- python jobs/select_coreset.py --input s3://... --budget 5000 --num-classes 10 \
        --out s3://...
"""

import sys

from elfs_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["run"]
    main()
