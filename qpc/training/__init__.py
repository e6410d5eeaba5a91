"""Training of graphs: switching it on and off, and what goes on between steps of compression."""

from qpc.training.optimizer_state import carry_optimizer as carry_optimizer
from qpc.training.switch import set_training as set_training
