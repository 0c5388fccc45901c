"""How sections of the configuration, without `auto`, say that networks are trained."""

from dataclasses import fields

import torch

from elfs_ray.config import BetaSearchConfig, EvaluateConfig, ProxyConfig, PseudoLabelsConfig
from elfs_ray.core.classifier_training import TrainingOptions
from elfs_ray.core.clustering import Schedule
from elfs_ray.core.proxy_training import ProxyOptions
from elfs_ray.core.temi_training import TemiOptions


def training_options(
    section: EvaluateConfig | BetaSearchConfig, model: str, num_classes: int, hidden_dim: int
) -> TrainingOptions:
    """The options of a training of the evaluation or of the search of beta."""
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


def temi_options(section: PseudoLabelsConfig, num_classes: int) -> TemiOptions:
    """Those of TEMI's heads, most of which have the same names."""
    same = {field.name for field in fields(TemiOptions)} - {"num_classes", "dtype"}
    chosen = {name: getattr(section, name) for name in same}
    return TemiOptions(num_classes=num_classes, dtype=getattr(torch, section.dtype), **chosen)


def temi_schedule(section: PseudoLabelsConfig) -> Schedule:
    """How long the heads are trained."""
    return Schedule(int(section.epochs), int(section.batch_size), float(section.learning_rate), section.warmup_fraction)


def proxy_options(section: ProxyConfig, num_classes: int) -> ProxyOptions:
    """Those of the proxy."""
    return ProxyOptions(
        model=section.model,
        num_classes=num_classes,
        hidden_dim=section.hidden_dim,
        epochs=int(section.epochs),
        batch_size=section.batch_size,
        learning_rate=float(section.learning_rate),
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        dtype=getattr(torch, section.dtype),
        folds=section.folds,
        tdds=section.tdds,
    )
