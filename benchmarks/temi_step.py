"""One training step of TEMI on random embeddings, for the scripts that time it; needs no more than torch and `core`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from elfs_ray.core.temi import TemiHeads, temi_loss, uniform_prior, update_teacher


def temi_step(heads: int, dim: int, classes: int, pairs: int, device: torch.device) -> Callable[[bool], None]:
    """A step on the same `pairs` again and again, as `engine/cluster.py` takes it; `True` runs it in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    views = F.normalize(torch.randn(2 * pairs, dim, generator=generator), dim=1).to(device)
    student, teacher = (TemiHeads(heads, dim, classes, generator=generator).to(device) for _ in range(2))
    optimizer = torch.optim.AdamW(student.parameter_groups(1e-4), lr=1e-4, fused=True)
    prior = uniform_prior(heads, classes).to(device)

    def step(half: bool) -> None:
        nonlocal prior
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            with torch.no_grad():
                target = teacher(views)
            logits = student(views)
        loss, prior = temi_loss(logits.float(), target.float(), prior)
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        optimizer.step()
        update_teacher(teacher, student, 0.996)

    return step
