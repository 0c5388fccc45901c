"""`python -m elfs_ray.cli`: the same as `elfs-ray`."""

from elfs_ray.cli import command

if __name__ == "__main__":
    command()
