"""Tensors that a model makes of sizes, such as `torch.zeros(b, 2, h, w)`: recorded as nodes.

These functions take numbers, so that given proxies of them they fail before torch.fx hears of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx

from sepify.capture.proxies import EvaluatingTracer, ValueProxy

_VARIADIC = ("zeros", "ones", "empty", "rand", "randn")
_OF_SIZES = (*_VARIADIC, "full", "arange", "linspace")
_OF_NUMBERS = ("tensor", "as_tensor")

Constructor = Callable[..., Any]


@contextmanager
def recorded_constructors(tracer: EvaluatingTracer) -> Iterator[None]:
    """Within the block, record the tensors that torch makes of the tracer's proxies."""
    with ExitStack() as stack:
        for names, recorded in ((_OF_SIZES, _of_sizes), (_OF_NUMBERS, _of_numbers)):
            for name in names:
                changed = recorded(tracer, getattr(torch, name))
                stack.enter_context(patch.object(torch, name, changed))
        yield


def _of_sizes(tracer: EvaluatingTracer, original: Constructor) -> Constructor:
    @functools.wraps(original)
    def constructor(*args: Any, **kwargs: Any) -> Any:
        if not _proxies((args, kwargs)):
            return original(*args, **kwargs)
        listed = original.__name__ in _VARIADIC and not isinstance(args[0], (list, tuple))
        sizes = (list(args),) if listed else args
        return tracer.create_proxy("call_function", original, sizes, kwargs)

    return constructor


def _of_numbers(tracer: EvaluatingTracer, original: Constructor) -> Constructor:
    """`torch.tensor([h, w])` as scalars that are stacked: unlike it, both functions take proxies
    when torch.fx traces the graph again to unpickle it."""

    @functools.wraps(original)
    def constructor(data: Any, *args: Any, **kwargs: Any) -> Any:
        given = _proxies(data)
        if not given or any(isinstance(proxy.known.value, Tensor) for proxy in given):
            return original(data, *args, **kwargs)
        example = original(fx.node.map_aggregate(data, _value), *args, **kwargs)
        options = {"dtype": example.dtype, "device": example.device}

        def made(item: Any) -> Any:
            if isinstance(_value(item), (list, tuple)):
                return torch.stack([made(part) for part in item])
            return tracer.create_proxy("call_function", torch.scalar_tensor, (item,), options)

        return made(data)

    return constructor


def _proxies(arguments: Any) -> list[ValueProxy]:
    given: list[Any] = []
    fx.node.map_aggregate(arguments, given.append)
    return [argument for argument in given if isinstance(argument, ValueProxy)]


def _value(argument: Any) -> Any:
    return argument.known.value if isinstance(argument, ValueProxy) else argument
