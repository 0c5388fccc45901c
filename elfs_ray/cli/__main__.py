"""`python -m elfs_ray.cli`: the same as `elfs-ray`."""

from elfs_ray.cli import main

if __name__ == "__main__":
    main()
