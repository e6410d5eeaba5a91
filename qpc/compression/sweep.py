"""`qpc.sweep`: one recipe with many settings, each combination a run of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn
from torch.fx import GraphModule

from qpc.batches import Batch
from qpc.capture.checks import ExampleInputs
from qpc.compression.compress import compress, settings_of, traced_for
from qpc.compression.recipe import Recipe
from qpc.compression.result import Row
from qpc.compression.step import Evaluate, Loss, Train
from qpc.errors import CompressionError, ConfigError
