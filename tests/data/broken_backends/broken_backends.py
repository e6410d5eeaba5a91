"""What packages may name as backends although it is none."""

from dataclasses import replace

from qpc.backends.reference.backend import BACKEND

NUMBER = 3
RENAMED = replace(BACKEND, name="another")


class Half:
    """Has a name, and nothing else."""

    name = "half"


HALF = Half()
