"""PyTorch without the modes that a caller may be in.

Under autocast a graph computes in other types than it says, tensors made in inference mode cannot
be trained afterwards, and what passes make would go to another default device or type. Other modes
replace operators: in a FakeTensorMode nothing has values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from qpc.interrupts import signals_that_end_no_process


@contextmanager
def ordinary_torch() -> Iterator[None]:
    """No autocast, inference mode or mode that replaces operators; the CPU and float32 as defaults.

    Ctrl-C ends what is done, and not the process. All is as it was afterwards.
    """
    import torch  # when it is needed: what is wrong with a path can be said without
    from torch.utils._python_dispatch import _disable_current_modes

    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(signals_that_end_no_process())
        stack.enter_context(_disable_current_modes())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())  # as it was there
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield
