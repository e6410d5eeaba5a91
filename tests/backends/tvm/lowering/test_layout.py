from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc.backends.common.orders import NHWC, channels_last, identity, permuted
from qpc.backends.tvm.lowering.layout import Value, plan_reshape

pytestmark = pytest.mark.tvm


def _stored(x: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(order))


RESHAPES = [
    ((2, 6, 4, 5), (2, 3, 2, 4, 5)),
    ((2, 3, 2, 4, 5), (2, 6, 4, 5)),
    ((2, 6, 4, 5), (2, 6, 20)),
    ((2, 6, 4, 5), (2, 120)),
    ((2, 6, 1, 1), (2, 6)),
    ((1, 6, 4, 5), (6, 4, 5)),
    ((2, 6), (2, 6, 1, 1)),
    ((2, 6, 4, 5), (48, 5)),
    ((1, 1), (1,)),
    ((2, 1, 3), (3, 1, 2)),
    ((0, 3), (3, 0)),
]


@pytest.mark.parametrize(("shape", "new_shape"), RESHAPES)
def test_a_planned_reshape_is_a_reshape_from_every_order(
    shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    for order in itertools.permutations(range(len(shape))):
        plan = plan_reshape(shape, order, new_shape)
        bytes_ = _stored(x, plan.stored).reshape(permuted(new_shape, plan.order))
        back = bytes_.transpose(np.argsort(plan.order)) if plan.order else bytes_
        assert (back == x.reshape(new_shape)).all(), order


def test_random_reshapes_are_planned_right() -> None:
    choose = random.Random(0)
    for _ in range(300):
        factors = [choose.choice((1, 2, 3, 2, 5)) for _ in range(choose.randint(1, 5))]
        shape, new_shape = (_merged(factors, choose) for _ in "ab")
        order = tuple(choose.sample(range(len(shape)), len(shape)))
        x = np.arange(np.prod(shape)).reshape(shape)
        plan = plan_reshape(shape, order, new_shape)
        memory = _stored(x, plan.stored).reshape(permuted(new_shape, plan.order))
        assert (memory.transpose(np.argsort(plan.order)) == x.reshape(new_shape)).all()


def _merged(factors: list[int], choose: random.Random) -> tuple[int, ...]:
    """A shape whose axes are products of neighbouring factors, with some axes of size 1."""
    shape = [1]
    for factor in factors:
        if choose.random() < 0.5:
            shape.append(factor)
        else:
            shape[-1] *= factor
    return tuple(shape)


@pytest.mark.parametrize(
    ("shape", "new_shape", "order", "moved", "new_order"),
    [
        ((2, 6, 4, 5), (2, 3, 2, 4, 5), NHWC, False, (0, 3, 4, 1, 2)),
        ((2, 6, 4, 5), (2, 6, 20), NHWC, False, (0, 2, 1)),
        ((2, 6, 1, 1), (2, 6), NHWC, False, (0, 1)),
        ((2, 6, 4, 5), (2, 120), NHWC, True, (0, 1)),
        ((2, 3, 2, 4, 5), (2, 6, 4, 5), (0, 3, 4, 2, 1), True, NHWC),
    ],
)
def test_reshapes_move_data_only_if_they_must(
    shape: tuple[int, ...],
    new_shape: tuple[int, ...],
    order: tuple[int, ...],
    moved: bool,
    new_order: tuple[int, ...],
) -> None:
    plan = plan_reshape(shape, order, new_shape)
    assert _value(shape, order).stored_as(plan.stored) is not moved
    assert plan.order == new_order


def _value(shape: tuple[int, ...], order: tuple[int, ...]) -> Value:
    return Value(None, shape, torch.uint8, order)


def test_axes_of_one_element_do_not_matter_to_memory() -> None:
    value = _value((2, 8, 1, 1), NHWC)
    assert value.stored_as(identity(4))
    assert not _value((2, 8, 1, 3), NHWC).stored_as(identity(4))
    assert value.physical_shape == (2, 1, 1, 8)


def test_permuting_logical_axes_moves_no_data() -> None:
    x = np.arange(120).reshape(2, 3, 4, 5)
    value = _value(x.shape, NHWC).with_axes((0, 3, 1, 2))
    assert value.shape == (2, 5, 3, 4)
    assert (_stored(x.transpose(0, 3, 1, 2), value.order) == _stored(x, NHWC)).all()


def test_only_images_are_stored_channels_last() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(3) == (0, 1, 2)
