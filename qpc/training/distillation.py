"""Distillation: a student learns from what its teacher makes of the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qpc.analysis.module_values import corresponding_value, module_value
from qpc.errors import ConfigError, PassError
from qpc.facts import require_graph
from qpc.meta import info
from qpc.ops.affine import BatchNorm
from qpc.settings import require_choice, require_kind, require_number
from qpc.training.distillation_terms import attention, hint, similarity, soft_targets

Path: TypeAlias = str | tuple[str, str]
"""The path of a module, or of one in the teacher and of one in the student."""

_METHODS = ("attention", "hint", "similarity")
_Run: TypeAlias = Callable[..., tuple[Any, tuple[Tensor, ...]]]


class Distillation(nn.Module):
    """A module that runs student and teacher, and returns the student's outputs and a loss.

        distill = Distillation(teacher, student, logits=1.0, temperature=4.0, values={"layer3": 50})
        optimizer = SGD(distill.parameters(), lr=0.01)
        for images, goals in loader:
            outputs, loss = distill(images)
            loss = loss + cross_entropy(outputs, goals)

    The loss is the sum of the terms asked for, each times its weight; `terms` holds those of the
    last call, by name, without gradients. The student may be a graph in any stage of training:
    float, pruned, with its values rounded. Nothing is copied, no hook is set, and the teacher is no
    submodule: state dictionaries, optimizers and `DistributedDataParallel(distill)` see the student
    (as `student`), and what is learned beside it.

    teacher: a traced graph, or any module if no `values` are asked for; in inference mode.
    student: a traced graph; switch it between training and inference with `qpc.set_training`.
    logits: weight of the term for the outputs (`soft_targets`: Hinton et al. 2015): a number if
        there is one output, or weights by key, if outputs are a dictionary, or by place. 0: none.
    temperature: T of that term, > 0.
    class_axis: the axis of the outputs that classes are on.
    values: weights by path of a module, such as `layer1.0`, whose value the student's is compared
        with, or by a pair of paths, in teacher and student. They are found by what is known of
        nodes, so that they stay the same values in any stage of a graph.
    method: how values are compared: "attention" (Zagoruyko & Komodakis 2017) by where they are
        large, "similarity" (Tung & Mori 2019) by which samples are alike, both for any widths;
        "hint" (Romero et al. 2015) each with each: where widths differ, a projection of channels is
        learned with the student, as `projections`, which `distill.parameters()` has.

    Raises ConfigError for settings and paths that are not allowed, and for values whose shapes
    cannot be compared; a call raises PassError if the teacher is in training mode.
    """

    projections: nn.ParameterDict
    terms: dict[str, Tensor]

    def __init__(
        self,
        teacher: nn.Module,
        student: GraphModule,
        *,
        logits: float | Mapping[int, float] | Mapping[str, float] = 1.0,
        temperature: float = 4.0,
        class_axis: int = 1,
        values: Mapping[Path, float]
        | Mapping[str, float]
        | Mapping[tuple[str, str], float]
        | None = None,
        method: str = "attention",
    ) -> None:
        super().__init__()
        require_kind("teacher", teacher, nn.Module, "a graph or module")
        require_graph(student, "the student of a distillation")
        if teacher is student:
            raise ConfigError("teacher and student are one graph", fix="copy.deepcopy(student)")
        require_number("temperature", temperature, 0, above=True)
        require_choice("method", method, _METHODS)
        self.student = student
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule
        self._logits = _weights("logits", logits)
        self._temperature, self._class_axis = temperature, class_axis
        self._method = method
        self._values = _weights("values", values or {})
        if self._values:
            require_graph(teacher, "a distillation of values")
        self.projections = nn.ParameterDict()
        for number, pair in enumerate(self._pairs()):
            self._prepare(str(number), *pair)
        self._runs: dict[str, tuple[str, _Run]] = {}
        self.terms = {}

    def forward(self, *inputs: Any, **named: Any) -> tuple[Any, Tensor]:
        """The student's outputs, and the weighted sum of all terms, a scalar."""
        (teacher,) = self._teacher
        _require_inference(teacher)
        with torch.no_grad():
            wanted, theirs = self._run("teacher", teacher, inputs, named)
        outputs, ours = self._run("student", self.student, inputs, named)
        terms = self._output_terms(outputs, wanted)
        for number, (path, weight) in enumerate(self._values.items()):
            term = self._value_term(str(number), ours[number], theirs[number])
            terms[path if isinstance(path, str) else " and ".join(path)] = (weight, term)
        self.terms = {name: term.detach() for name, (_, term) in terms.items()}
        total = torch.zeros((), device=_device(self.student))
        for weight, term in terms.values():
            total = total + weight * term
        return outputs, total

    # --- outputs --------------------------------------------------------------------------------

    def _output_terms(self, outputs: object, wanted: object) -> dict[str, tuple[float, Tensor]]:
        terms = {}
        for key, weight in self._logits.items():
            if weight == 0:
                continue
            ours, theirs = (_output(each, key) for each in (outputs, wanted))
            name = "logits" if key is None else f"logits[{key!r}]"
            if ours.shape != theirs.shape:
                raise PassError(
                    f"{name}: the student's output has shape {list(ours.shape)}, the teacher's "
                    f"{list(theirs.shape)}",
                    fix="teach a student with the same classes, or pass logits=0",
                )
            axis = self._class_axis
            terms[name] = (weight, soft_targets(ours, theirs, self._temperature, axis))
        return terms

    # --- values ---------------------------------------------------------------------------------

    def _pairs(self) -> list[tuple[Node, Node]]:
        """The nodes to compare, in teacher and student, as the graphs are now."""
        (teacher,) = self._teacher
        found = []
        for path in self._values:
            assert isinstance(teacher, GraphModule)
            if isinstance(path, str):
                here = corresponding_value(teacher, self.student, path)
                found.append((module_value(teacher, path), here))
            else:
                found.append((module_value(teacher, path[0]), module_value(self.student, path[1])))
        return found

    def _prepare(self, number: str, teachers: Node, students: Node) -> None:
        """Refuse values that cannot be compared, and make a projection where one is needed."""
        theirs, ours = info(teachers).shape or (), info(students).shape or ()
        places = self._method == "similarity" or theirs[2:] == ours[2:]
        least = {"attention": 3, "hint": 2, "similarity": 1}[self._method]
        if min(len(theirs), len(ours)) < least or not places or theirs[:1] != ours[:1]:
            raise ConfigError(
                f"values of shapes {_text(theirs)} ({teachers.name} of the teacher) and "
                f"{_text(ours)} ({students.name} of the student) cannot be compared by "
                f"{self._method!r}",
                fix='method="similarity" compares values of any shape',
            )
        if self._method == "hint" and theirs[1] != ours[1]:
            sizes = int(str(theirs[1])), int(str(ours[1]))
            weight = torch.empty(sizes, device=_device(self.student))
            nn.init.kaiming_uniform_(weight, nonlinearity="linear")
            self.projections[number] = nn.Parameter(weight)

    def _value_term(self, number: str, ours: Tensor, theirs: Tensor) -> Tensor:
        if self._method == "attention":
            return attention(ours, theirs)
        if self._method == "similarity":
            return similarity(ours, theirs)
        known = number in self.projections
        return hint(ours, theirs, self.projections[number] if known else None)

    def _run(
        self, role: str, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """The outputs of a model, and the values to compare."""
        if not self._values:
            return model(*inputs, **named), ()
        assert isinstance(model, GraphModule)
        code, run = self._runs.get(role, ("", None))
        if run is None or code != model.code:  # it was switched, or a pass has edited it
            pairs = self._pairs()
            run = _returning(model, [pair[role == "student"] for pair in pairs])
            self._runs[role] = (model.code, run)
        return run(model, *inputs, **named)


def _weights(name: str, given: object) -> dict[Any, float]:
    """Weights by key; None is the key of a number alone."""
    weights: dict[Any, Any] = dict(given) if isinstance(given, Mapping) else {None: given}
    for key, weight in weights.items():
        require_number(name if key is None else f"{name}[{key!r}]", weight, 0)
    if name == "values":
        for key in weights:
            pair = isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, str) for k in key)
            if not (isinstance(key, str) or pair):
                raise ConfigError(
                    f"values must be given by path of a module, or pair of paths, got {key!r}",
                    fix='values={"layer1.0": 1.0, ("teacher.path", "student.path"): 1.0}',
                )
    return weights


def _output(outputs: object, key: object) -> Tensor:
    if key is None:
        if isinstance(outputs, Tensor):
            return outputs
        has = type(outputs).__name__
        fix = 'logits={"name": 1.0} for a dictionary, logits={0: 1.0} for a tuple'
        raise PassError(f"there are several outputs, a {has}: say which are logits", fix=fix)
    try:
        found = outputs[key]  # type: ignore[index]  # what is no container says so
    except (KeyError, IndexError, TypeError) as e:
        raise PassError(f"logits[{key!r}]: there is no such output") from e
    if not isinstance(found, Tensor):
        raise PassError(f"logits[{key!r}]: that output is a {type(found).__name__}, no tensor")
    return found


def _require_inference(teacher: nn.Module) -> None:
    nodes = teacher.graph.nodes if isinstance(teacher, GraphModule) else ()
    norms = [norm for node in nodes if (norm := BatchNorm.of(node)) is not None]
    if teacher.training or any(norm.training and norm.running_mean is not None for norm in norms):
        raise PassError(
            "the teacher is in training mode",
            fix="qpc.set_training(teacher, mode=False), or teacher.eval() for a module",
        )


def _returning(model: GraphModule, nodes: list[Node]) -> _Run:
    """The code of a graph that returns these values beside its outputs, to be called with it.

    It reads the tensors of the graph that it is given, so that nothing is copied.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    result = graph.graph_copy(model.graph, copies)
    graph.output((result, tuple(copies[node] for node in nodes)))
    made = GraphModule(model, graph)
    run: _Run = type(made).forward
    return run


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _text(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
