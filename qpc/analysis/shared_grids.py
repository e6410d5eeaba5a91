"""Disjoint sets of values that have one grid."""

from __future__ import annotations

from torch.fx import Node


class SharedGrids:
    """Disjoint sets of values; each set has a carrier and an owner."""

    def __init__(self) -> None:
        self._parent: dict[Node, Node] = {}
        self._carrier: dict[Node, Node] = {}
        self._owner: dict[Node, Node] = {}

    def add(self, node: Node, owner: Node | None = None) -> None:
        """`node` has a grid; `owner`: whose configuration decides about it, if that is another."""
        if node not in self._parent:
            self._parent[node] = self._carrier[node] = node
            self._owner[node] = owner or node

    def follow(self, node: Node, source: Node) -> None:
        """`node` has the grid of `source`."""
        self._parent[node] = self._root(source)

    def take_over(self, node: Node, source: Node, *, owner: Node) -> None:
        """`source` has the grid of `node`, whose values are the ones that count."""
        self.add(node)
        old, new = self._root(source), self._root(node)
        self._parent[old] = new
        self._carrier[new], self._owner[new] = node, owner

    def same(self, a: Node, b: Node) -> bool:
        return self._root(a) is self._root(b)

    def owner_of(self, node: Node) -> Node:
        return self._owner[self._root(node)]

    def carriers(self) -> tuple[dict[Node, Node], dict[Node, Node]]:
        carrier = {node: self._carrier[self._root(node)] for node in self._parent}
        owner = {self._carrier[self._root(n)]: self._owner[self._root(n)] for n in self._parent}
        return carrier, owner

    def _root(self, node: Node) -> Node:
        while self._parent[node] is not node:
            node = self._parent[node]
        return node
