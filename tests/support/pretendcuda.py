"""A GPU for tests where there is none: tensors that say they are on `cuda:0`.

Their numbers are kept and computed on the CPU, by the same operators. What a real GPU refuses is
refused here too: an operator that is given tensors of both devices. So what runs here moves its
tensors where they have to be; how fast it is and how it rounds, only a GPU can tell.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so its classes are Any to it.

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

GPU: Final = torch.device("cuda", 0)
_CPU: Final = torch.device("cpu")


class _Here(threading.local):
    """`inside` is true in a call that was given tensors of the GPU: what torch makes of its own
    accord for such a call, it makes there."""

    inside = False


_ATEN: Final = torch.ops.aten
_CROSSES: Final = {_ATEN._to_copy.default, _ATEN.copy_.default}
"""Operators that take tensors from one device to the other."""
_INDEXES: Final = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default}
"""Operators whose second argument, the places, may be on the CPU: they take it along."""
_here: Final = _Here()
_ran: Counter[str] = Counter()


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU; `held` has its numbers.

    torch's own code, below Python, takes it for one of the CPU: a backward pass would look for a
    driver otherwise. So what tells or changes a tensor's place is written here.
    """

    held: torch.Tensor
    device = property(lambda _self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda _self: True)  # type: ignore[assignment]
    is_cpu = property(lambda _self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as a plain tensor, which is what a machine without a GPU loads."""
        return self.held.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


@contextmanager
def _inside(there: bool) -> Iterator[None]:
    outside, _here.inside = _here.inside, there
    try:
        yield
    finally:
        _here.inside = outside


class _Gpu(TorchDispatchMode):
    """Sees the operators that no tensor of the GPU takes part in: those that make or move one."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Moves(TorchFunctionMode):
    """Does what moves tensors, before torch looks for a driver."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            return _moved(args[0], *torch._C._nn._parse_to(*args[1:], **kwargs))
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            device = _CPU if func is torch.Tensor.cpu else GPU
            return _moved(args[0], device, None, False, None)
        if func is torch.Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        there = any(isinstance(each, OnGpu) for each in _flat((args, kwargs)))
        asked = kwargs.get("device")
        if asked is not None and not there and torch.device(asked).type == "cuda":
            made = func(*args, **{name: each for name, each in kwargs.items() if name != "device"})
            return _moved(made, GPU, None, False, None)
        with _inside(there):
            return func(*args, **kwargs)


def _moved(tensor: torch.Tensor, device: Any, dtype: Any, _blocking: bool, layout: Any) -> Any:
    """`Tensor.to`: the same tensor where nothing changes."""
    known = {"dtype": dtype, "memory_format": layout}
    known = {name: value for name, value in known.items() if value is not None}
    place = tensor.device if device is None else torch.device(device)
    if place.type == tensor.device.type:
        with _inside(place.type == "cuda"):
            return tensor.to(**known) if known else tensor
    dtype = tensor.dtype if dtype is None else dtype
    return _ATEN._to_copy(
        tensor, dtype=dtype, device=GPU if place.type == "cuda" else _CPU, memory_format=layout
    )


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    looked_at = (args[0], *args[2:]) if func in _INDEXES else args
    tensors = [each for each in _flat((looked_at, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, OnGpu)]
    asked = kwargs.get("device")
    if there and len(there) < len(tensors) and func not in _CROSSES:
        _refuse_mixed(func, tensors)
    if func is _ATEN.copy_.default:
        on_gpu = isinstance(args[0], OnGpu)
    elif asked is None:
        on_gpu = bool(there)
    else:
        on_gpu = _here.inside or torch.device(asked).type == "cuda"
    if asked is not None:
        kwargs = kwargs | {"device": _CPU}
    if kwargs.get("pin_memory"):
        kwargs = kwargs | {"pin_memory": False}
    held_args, held_kwargs = tree_map_only(OnGpu, lambda each: each.held, (args, kwargs))
    out = func(*held_args, **held_kwargs)
    if not on_gpu:
        return out
    _ran[func.name()] += 1
    wrapped = tree_map_only(torch.Tensor, OnGpu, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _flat(given: Any) -> Iterator[Any]:
    if isinstance(given, dict):
        given = list(given.values())
    if isinstance(given, list | tuple):
        for each in given:
            yield from _flat(each)
    else:
        yield given


def _refuse_mixed(func: Any, tensors: list[torch.Tensor]) -> None:
    """As CUDA does; single numbers of the CPU may take part."""
    strangers = [each for each in tensors if not isinstance(each, OnGpu) and each.ndim]
    if strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func} was given cuda:0 and cpu "
            f"{[tuple(each.shape) for each in strangers]}"
        )


def _autocast(real: Any, _device_type: str, *given: Any, **named: Any) -> Any:
    return real("cpu", *given, **named)


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """While inside, torch says that it has one GPU. Gives how often each operator ran there."""
    properties = SimpleNamespace(name="Pretended", total_memory=8 << 30, major=8, minor=0)
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_given, **_named: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _device: None,
        "get_device_properties": lambda _device=None: properties,
        "memory_reserved": lambda *_given: 0,
        "empty_cache": lambda: None,
        "synchronize": lambda *_given: None,
    }
    _ran.clear()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # of another class, the same object
    autocast = functools.partial(_autocast, torch.autocast)
    try:
        with (
            mock.patch.multiple(torch.cuda, **answers),
            mock.patch.object(torch, "autocast", autocast),
            mock.patch.object(torch, "inference_mode", torch.no_grad),  # no wrappers in theirs
            mock.patch.object(
                torch.accelerator, "is_available", return_value=False
            ),  # needs a driver
            _Gpu(),
            _Moves(),
        ):
            yield _ran
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
