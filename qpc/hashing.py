"""One hash for a graph and everything in it."""

from __future__ import annotations

import hashlib

import torch
from torch.fx import GraphModule

from qpc.facts import require_graph
from qpc.meta import info
from qpc.printer import format_graph


def fingerprint(gm: GraphModule) -> str:
    """SHA-256 over the printed graph, node info, parameters and buffers.

    Equal fingerprints mean: the same graph with bit-equal state and equal node info. Names count.
    """
    require_graph(gm, "fingerprint")
    digest = hashlib.sha256(format_graph(gm).encode())
    for node in gm.graph.nodes:
        digest.update(f"{node.name}|{info(node)!r}\n".encode())
    tensors = [
        *gm.named_parameters(remove_duplicate=False),
        *gm.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        plain = tensor.detach().contiguous().cpu()
        head = f"{name}|{plain.dtype}|{tuple(plain.shape)}|{tensor.requires_grad}\n"
        digest.update(head.encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
