"""Labels of samples that are named in a test, as a stage matches them."""

import pyarrow as pa

from elfs_ray.data.labels import match_labels


def read_labels(spec, ids, source=""):
    """Numbers of the samples' classes, and the class names; each label has to be of a sample."""
    labels = match_labels(str(spec), pa.array(ids, pa.string()), source=source)
    labels.refuse_unmatched("the samples")
    return labels.numbers, labels.classes
