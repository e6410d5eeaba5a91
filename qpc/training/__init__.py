"""Training of graphs: switching it on and off, and what goes on between steps of compression."""

from qpc.training.checkpoint import Checkpoint as Checkpoint
from qpc.training.checkpoint import load_checkpoint as load_checkpoint
from qpc.training.checkpoint import save_checkpoint as save_checkpoint
from qpc.training.distillation import Distillation as Distillation
from qpc.training.optimizer_state import carry_optimizer as carry_optimizer
from qpc.training.switch import set_training as set_training
