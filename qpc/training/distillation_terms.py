"""How far a student's values are from its teacher's: the terms of a distillation, as functions.

Each takes the student's value and the teacher's, [batch, ...], and returns a float32 scalar, 0 for
an empty batch. They are computed in float32 whatever the values are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, class_axis: int) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over everything but classes.

    Hinton et al. 2015, arXiv:1503.02531. The factor keeps gradients of one size for all T.
    """
    ours, theirs = (
        functional.log_softmax(value.float() / temperature, dim=class_axis)
        for value in (student, teacher)
    )
    divergence = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
    places = student.numel() // max(student.shape[class_axis], 1)
    return divergence * (temperature**2 / max(places, 1))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squared differences of attention maps, the mean over the batch.

    The map of a value [batch, channels, ...] is the sum of its squares over channels, divided by
    its Euclidean norm: widths do not matter. Zagoruyko & Komodakis 2017, arXiv:1612.03928.
    """
    ours, theirs = (
        functional.normalize(value.float().square().sum(1).flatten(1), dim=1)
        for value in (student, teacher)
    )
    return (ours - theirs).square().sum() / max(len(ours), 1)


def hint(student: Tensor, teacher: Tensor, projection: Tensor | None) -> Tensor:
    """The mean of squared differences, over everything.

    projection: [channels of the teacher, channels of the student], through which the student's
    channels go before. Romero et al. 2015, arXiv:1412.6550.
    """
    ours = student.float()
    if projection is not None:
        ours = torch.einsum("oc,nc...->no...", projection.float(), ours)
    return (ours - teacher.float()).square().sum() / max(teacher.numel(), 1)


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of squared differences of how alike the samples of the batch are to each other.

    [batch, batch]: products of all pairs of samples, each row divided by its Euclidean norm:
    nothing but the batch needs to be of one size. Tung & Mori 2019, arXiv:1907.09682.
    """
    ours, theirs = (
        functional.normalize(flat @ flat.T, dim=1)
        for flat in (value.float().flatten(1) for value in (student, teacher))
    )
    return (ours - theirs).square().sum() / max(ours.numel(), 1)
