import pytest

from qpc.backends.deploy.elf import SHF_WRITE, STB_GLOBAL, STB_LOCAL, STB_WEAK, Object, Section
from qpc.backends.deploy.merge import constants, merge
from qpc.errors import BackendError
from tests.backends.deploy.objects import NARROW, function, made_object


def names(made: Object, binding: int) -> list[str]:
    return [s.name for s in made.symbols if s.binding == binding and s.name]


def test_only_what_is_exported_keeps_a_global_name() -> None:
    merged = merge([function("run", "kernel"), function("kernel", "memcpy")], ["run"])
    assert names(merged.made, STB_GLOBAL) == ["run", "memcpy"]
    assert names(merged.made, STB_LOCAL) == ["kernel"]
    assert merged.needed == ("memcpy",)


def test_calls_between_objects_are_bound() -> None:
    made = merge([function("run", "kernel"), function("kernel")], ["run"]).made
    (call,) = made.sections[0].relocations
    assert made.symbols[call.symbol].name == "kernel"
    assert made.symbols[call.symbol].section == 1


def test_what_nothing_reaches_is_left_out() -> None:
    merged = merge([function("run"), function("other", "printf")], ["run"])
    assert [section.name for section in merged.made.sections] == [".text.run"]
    assert merged.needed == ()
    assert (merged.code, merged.constants) == (1, 0)


def test_a_definition_that_is_not_weak_is_meant() -> None:
    weak, strong = function("half", "weak", binding=STB_WEAK), function("half", "strong")
    merged = merge([function("run", "half"), weak, strong], ["run"])
    assert merged.needed == ("strong",)


def test_of_weak_definitions_the_first_is_meant() -> None:
    first, second = (function("half", name, binding=STB_WEAK) for name in ("first", "second"))
    assert merge([function("run", "half"), first, second], ["run"]).needed == ("first",)


def test_constants_are_aligned_and_counted() -> None:
    code = function("run", "w_1")
    merged = merge([code, constants(code, {"w_1": bytes(100), "w_2": bytes(7)}, 64)], ["run"])
    (section,) = [s for s in merged.made.sections if s.name == ".rodata.w_1"]
    assert (section.align, merged.constants) == (64, 100)


def test_two_definitions_are_refused() -> None:
    with pytest.raises(BackendError, match="two object files define 'run'"):
        merge([function("run"), function("run")], ["run"])


def test_a_symbol_that_no_object_has_is_refused() -> None:
    with pytest.raises(BackendError, match="no object file defines 'walk'"):
        merge([function("run", "walk")], ["walk"])


def test_objects_for_different_machines_are_refused() -> None:
    with pytest.raises(BackendError, match="for different machines or calling conventions: 40"):
        merge([function("run"), made_object(NARROW)], ["run"])


def test_memory_that_changes_is_refused() -> None:
    code = function("run", "state")
    state = constants(code, {"state": bytes(4)}, 4)
    old = state.sections[0]
    state.sections[0] = Section(".data", old.kind, old.flags | SHF_WRITE, old.data, 4, 4)
    with pytest.raises(BackendError, match=r"would have memory that changes: section '\.data'"):
        merge([code, state], ["run"])
