"""Take over the grids and the integer weights of a model that another tool has quantized.

Before:  x -> quantize -> dequantize -> conv2d(dequantize(W int8)) -> relu -> quantize -> dequantize
         in PT2E's operators, `quantized_decomposed`
After:   x -> observe -> conv2d(fake_quantize(W)) -> relu -> observe, with grids that are fixed
Keeps:   what is computed, up to roundings; weights round to exactly the integers that they were
Leaves:  layers whose weights or biases no integer layer can have, with the reason
Cost:    one walk over the graph, and what `import-grids` costs

Integers of values that count from -128 become such that count from 0, of the same reals. Weights
may be -128, which `qpc.quantize` never chooses: sums are proven from the weights as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.analysis.coverage import layers_with_weights
from qpc.analysis.given_grids import GivenGrids, WeightGrid
from qpc.base import Pass, PassContext
from qpc.calls import arguments
from qpc.edit import Editor
from qpc.errors import ConfigError, PassError
from qpc.facts import CORE_FORM, OBSERVED
from qpc.foreign import foreign_calls, foreign_name, is_foreign
from qpc.layers import any_layer, weighted
from qpc.meta import attribute, info, label
from qpc.passes.import_grids import NO_WEIGHT_GRID, insert_given
from qpc.quant.config import QuantConfig
from qpc.quant.fake_quantization import Rounding
from qpc.quant.grid import QParams
from qpc.settings import require_kind

_INT8 = range(-128, 128)


@dataclass(frozen=True)
class ImportQuantized(Pass, name="import-quantized", requires={CORE_FORM}, establishes={OBSERVED}):
    """Make observers with fixed grids of the quantize and dequantize operators of PT2E.

    calibrated, config: as `ImportGrids` has them.
    """

    calibrated: bool = False
    config: QuantConfig = field(default_factory=QuantConfig)

    def __post_init__(self) -> None:
        require_kind("calibrated", self.calibrated, bool, "True or False")
        require_kind("config", self.config, QuantConfig, "a QuantConfig")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        if not foreign_calls(gm):
            raise PassError(
                "there is nothing to import: the graph calls no operator of quantized_decomposed",
                fix="qpc.quantize(gm, batches) for a float model",
            )
        editor = Editor(gm, self.name)
        weights = _take_constants(editor)
        values = _take_pairs(editor)
        _require_none_left(gm)
        given, kept = {}, {}
        for layer in layers_with_weights(gm):
            view = weighted(layer)
            found = weights.get(view.weight) if view is not None else None
            if isinstance(found, WeightGrid):
                given[layer] = found
            else:
                kept[layer] = found or NO_WEIGHT_GRID
        editor.drop_unused()
        grids = GivenGrids(values, given, kept)
        insert_given(editor, grids, self.config, ctx, calibrated=self.calibrated)
        return True


def _require_none_left(gm: GraphModule) -> None:
    if left := foreign_calls(gm):
        names = ", ".join(sorted({foreign_name(n) for n in left}))
        raise PassError(
            f"{len(left)} quantize and dequantize operators do not stand in pairs around floats:"
            f" {names}",
            node=left[0],
            fix="import what convert_pt2e returns, before a backend lowers it",
        )


# --- what the model stores ------------------------------------------------------------------------


def _take_constants(editor: Editor) -> dict[Node, WeightGrid | str]:
    """Put parameters in the places of dequantized constants; their grids, or why they have none."""
    gm, found = editor.gm, dict[Node, WeightGrid | str]()
    constant: set[Node] = set()
    for node in list(gm.graph.nodes):
        known = node.op == "get_attr" or (is_foreign(node) and constant >= {*node.all_input_nodes})
        if not known:
            continue
        constant.add(node)
        if not (is_foreign(node) and foreign_name(node).startswith("dequantize")):
            continue
        given = {name: _value(gm, value) for name, value in arguments(node).items()}
        real = _value(gm, node)
        made = editor.parameter(_free_name(editor, node), real, before=node)
        found[made] = _weight_grid(given, real)
        node.replace_all_uses_with(made)
    editor.drop_unused()
    return found


def _value(gm: GraphModule, value: Any) -> Any:
    """An argument, or what a node yields that depends on no input."""
    if not isinstance(value, Node):
        return value
    if value.op == "get_attr":
        return attribute(gm, str(value.target)).detach()
    assert callable(value.target)
    with torch.no_grad():
        args, kwargs = map_arg((value.args, value.kwargs), lambda n: _value(gm, n))
        return value.target(*args, **kwargs)


def _free_name(editor: Editor, node: Node) -> str:
    """The name that the parameter has in the user's module, if it is free."""
    for user in node.users:
        layer = any_layer(user)
        if layer is None:
            continue
        leaf = "weight" if layer.weight is node else "bias"
        wanted = f"{info(user).module_path or user.name}.{leaf}"
        read = any(n.op == "get_attr" and n.target == wanted for n in editor.gm.graph.nodes)
        return editor.free_name(wanted) if read else wanted
    return editor.free_name(f"{node.name}_real")


def _weight_grid(given: dict[str, Any], real: Tensor) -> WeightGrid | str:
    """The grid that rounds `real` to the integers that it was made of, or why there is none."""
    integers = given["input"]
    scales = torch.as_tensor(given.get("scales", given.get("scale"))).float().reshape(-1)
    zeros = given.get("zero_points", given.get("zero_point"))
    zeros = torch.as_tensor(0 if zeros is None else zeros).long().reshape(-1)
    axis = int(given.get("axis", 0)) % max(integers.dim(), 1)
    shape = [-1 if i == axis and zeros.numel() > 1 else 1 for i in range(integers.dim())]
    centred = integers.long() - zeros.reshape(shape)
    least, greatest = int(centred.min()), int(centred.max())
    if least not in _INT8 or greatest not in _INT8:
        return f"its weight less its zero points goes from {least} to {greatest}, outside of int8"
    bits = (int(given["quant_max"]) - int(given["quant_min"])).bit_length()
    hi = (1 << (min(max(bits, 2), 8) - 1)) - 1
    if greatest > hi or least < -hi - 1:
        hi = _INT8[-1]
    lo = -hi - 1 if least == -hi - 1 else -hi
    grid = WeightGrid(scales, lo, hi, axis)
    rounding = Rounding(scales, torch.zeros(scales.numel(), dtype=torch.int64), lo, hi, axis)
    if not torch.equal(rounding.points(real).long(), centred):
        return "its weight does not round to the integers that it was made of"
    return grid


# --- values ---------------------------------------------------------------------------------------


def _take_pairs(editor: Editor) -> dict[Node, QParams]:
    """Let readers of dequantized values read what was quantized; the grids of these values."""
    gm, found = editor.gm, dict[Node, QParams]()
    for node in foreign_calls(gm):
        name = foreign_name(node)
        if not name.startswith("quantize_per_tensor"):
            continue
        source, grid = node.all_input_nodes[0], _grid(gm, node)
        back = list(node.users)
        if any(not _undoes(gm, user, grid) for user in back):
            continue  # it is reported with the others that are left
        if found.setdefault(source, grid) != grid:
            raise PassError(
                f"the value of {label(source)} is rounded to two grids, {found[source]} and {grid}",
                node=source,
                fix="quantize it once for all of its readers",
            )
        for user in back:
            user.replace_all_uses_with(source)
            gm.graph.erase_node(user)
        gm.graph.erase_node(node)
    return found


def _undoes(gm: GraphModule, node: Node, grid: QParams) -> bool:
    pair = is_foreign(node) and foreign_name(node).startswith("dequantize_per_tensor")
    return pair and _grid(gm, node) == grid


def _grid(gm: GraphModule, node: Node) -> QParams:
    """The grid of a call, of integers that count from 0."""
    given = {name: _value(gm, v) for name, v in arguments(node).items() if name != "input"}
    dtype = given["dtype"]
    shift = -torch.iinfo(torch.int8).min if dtype is torch.int8 else 0
    dtype = torch.uint8 if dtype is torch.int8 else dtype
    zero, lo, hi = (int(given[name]) + shift for name in ("zero_point", "quant_min", "quant_max"))
    try:
        return QParams(float(torch.tensor(float(given["scale"])).float()), zero, lo, hi, dtype)
    except ConfigError as e:
        raise PassError(
            f"{label(node)} has no grid of 8 bits: {e.what}",
            node=node,
            fix="quantize values to 8 bits in the tool that it comes from",
        ) from e
