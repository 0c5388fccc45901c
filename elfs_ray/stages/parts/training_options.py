"""How a section of the configuration says that a classifier is trained."""

import torch

from elfs_ray.config import BetaSearchConfig, EvaluateConfig
from elfs_ray.core.classifier_training import TrainingOptions


def training_options(
    section: EvaluateConfig | BetaSearchConfig, model: str, num_classes: int, hidden_dim: int
) -> TrainingOptions:
    """The options of a training of the evaluation or of the search of beta; the section is without `auto`."""
    return TrainingOptions(
        model,
        num_classes,
        hidden_dim,
        steps=int(section.steps),
        batch_size=int(section.batch_size),
        learning_rate=float(section.learning_rate),
        weight_decay=float(section.weight_decay),
        dtype=getattr(torch, section.dtype),
        hide=section.hide if isinstance(section, EvaluateConfig) else 0.0,
    )
