"""Pass damaged files and options to the readers: `tests/test_fuzz*.py` with more inputs, and others every time.

    python benchmarks/fuzz.py [examples for each test, default 1,200] [further arguments of pytest]

Each test stops at the first input that leads to anything but a result or a promised error, and prints the smallest one
that it finds.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    examples, *more = sys.argv[1:] or ["1200"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/test_fuzz.py",
        "tests/test_fuzz_tables.py",
        "-q",
        "--hypothesis-show-statistics",
        *more,
    ]
    sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "ELFS_RAY_FUZZ": examples}, check=False).returncode)  # noqa: S603


if __name__ == "__main__":
    main()
