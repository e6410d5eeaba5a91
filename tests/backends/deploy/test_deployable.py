import numpy as np
import pytest

from qpc.backends.deploy.deployable import checked_name, raw_bytes
from qpc.errors import BackendError
from tests.backends.deploy.models import deployable


def test_names_are_those_of_c() -> None:
    assert checked_name("my_net2") == "my_net2"
    with pytest.raises(BackendError, match="a library cannot be called 'while'") as caught:
        checked_name("while")
    assert caught.value.fix is not None
    assert "name='my_model'" in caught.value.fix


def test_ports_say_what_they_are_in_c() -> None:
    (port,) = deployable().inputs
    assert (port.element.c, port.elements, port.bytes) == ("float", 6, 24)
    assert str(port) == "x: float32[2, 3]"


def test_bytes_lie_as_on_the_target_whatever_this_machine_does() -> None:
    assert raw_bytes(np.array([1, 2], ">u2")) == b"\1\0\2\0"
    assert raw_bytes(np.array([[1, 2], [3, 4]], np.uint8).T) == b"\1\3\2\4"


def test_weights_are_known_by_their_places() -> None:
    model = deployable()
    assert model.weight_of(model.entry.calls[0].reads[1]) == "w_1"
    assert (model.run, model.macro) == ("net_run", "NET")
