"""A torch.fx Proxy that answers Python's questions with the value that the example gives."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import has_side_effect

from sepify.capture.known import FACT_METHODS, FACTS, Known

for write in (torch.ops.aten.copy_, torch.ops.aten.fill_):
    has_side_effect(write)  # or dead code elimination would drop it


class EvaluatingTracer(fx.Tracer):
    """A tracer that knows the example's value of every node, as `ValueProxy` needs it to."""

    known: dict[fx.Node, Known]

    @abstractmethod
    def assume(self, proxy: ValueProxy) -> Any:
        """Return the value of a number or truth that decides what the graph looks like."""


class ValueProxy(fx.Proxy):
    """A Proxy that answers Python's questions with the example's value."""

    tracer: EvaluatingTracer

    @property
    def known(self) -> Known:
        """What is known of the node."""
        return self.tracer.known[self.node]

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") and k.endswith("__"):
            raise AttributeError(k)
        value = self.known.value
        if isinstance(value, Mapping):
            if k in value:  # a model's output is a dict with attributes
                return self._item(k)
            plain = {key: self._item(key) for key in value}
            return getattr(plain, k) if hasattr(plain, k) else getattr(value, k)
        found = getattr(value, k)
        if isinstance(value, torch.device):  # its type and index
            return found
        if isinstance(value, Tensor) and k in FACTS:
            return found
        if not callable(found):
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        if isinstance(value, Tensor) and k in FACT_METHODS:
            return found

        def method(*args: Any, **kwargs: Any) -> Any:
            return self.tracer.create_proxy("call_method", k, (self, *args), kwargs)

        return method

    def __iter__(self) -> Iterator[Any]:
        value = self.known.value
        if isinstance(value, Mapping):
            return iter(list(value))
        return (self._item(index) for index in range(len(self)))

    def _item(self, key: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})

    def __len__(self) -> int:
        if isinstance(self.known.value, Tensor):  # not a tuple, whose length is its structure
            return int(self.tracer.assume(self.size(0)))
        return len(self.known.value)

    def __contains__(self, item: Any) -> bool:
        value = self.known.value
        return item in value if isinstance(value, Mapping) else any(item == i for i in self)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(self.known.value, Tensor) or not _is_basic(key):
            self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})
            return
        # by a view of the part, as torch.fx cannot trace an assignment again when it unpickles
        write = torch.ops.aten.fill_ if isinstance(value, (int, float)) else torch.ops.aten.copy_
        self.tracer.create_proxy("call_function", write, (self._item(key), value), {})

    def __eq__(self, other: object) -> Any:
        if other is None:  # which no size, tensor or list is: not worth a check
            return self.known.value is None
        return self.tracer.create_proxy("call_function", operator.eq, (self, other), {})

    def __ne__(self, other: object) -> Any:
        if other is None:
            return self.known.value is not None
        return self.tracer.create_proxy("call_function", operator.ne, (self, other), {})

    __hash__ = fx.Proxy.__hash__

    def __bool__(self) -> bool:
        return bool(self.tracer.assume(self))

    def __int__(self) -> int:
        return int(self.tracer.assume(self))

    def __float__(self) -> float:
        return float(self.tracer.assume(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.assume(self))

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def keys(self) -> Any:
        """The keys of a dict, which are structure."""
        return list(self.known.value)


def _is_basic(key: Any) -> bool:
    """Whether the index selects a view: numbers, slices, None and Ellipsis."""
    items = key if isinstance(key, tuple) else (key,)
    return all(
        item is None
        or item is Ellipsis
        or isinstance(item, slice)
        or (type(item) is int or (isinstance(item, ValueProxy) and type(item.known.value) is int))
        for item in items
    )
