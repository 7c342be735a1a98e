"""A second device that every machine has: tensors that say "cuda" and keep their numbers on the CPU.

Inside `Elsewhere()` whatever asks for "cuda" gets such tensors, every operation of torch runs on the
numbers that they hold, and what a real device would refuse is refused: operands on two devices, NumPy's
view of memory that is not the host's, a generator of another device. What would make the host wait
for the device is counted, with the line of `interp` that asked.

To torch's own code the device is "meta": the one besides the CPU for which every build of torch knows
how to run autograd. Python sees "cuda" only.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ELSEWHERE, HOST, UNDER = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
PACKAGE = Path(__file__).parents[2] / "interp"
_WAIT = frozenset(
    "_local_scalar_dense nonzero masked_select equal bincount _unique2 unique_dim unique_consecutive".split()
)
"""What cannot return before the host knows a value: a number, or how many there are."""
_INDEX = frozenset("index index_put index_put_ _unsafe_index _index_put_impl_".split())
_COPIES = frozenset(("copy_", "_to_copy", "to", "copy", "_copy_from", "set_data"))


class MixedDevices(RuntimeError):
    """Operands on two devices."""


class There(Tensor):
    """A tensor on the device; `own` holds its numbers."""

    own: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, own: Tensor) -> There:
        form: dict[str, Any] = {}
        if own.layout is torch.strided:
            form = {"strides": own.stride(), "storage_offset": own.storage_offset()}
        return Tensor._make_wrapper_subclass(
            cls, own.size(), dtype=own.dtype, device=UNDER, requires_grad=own.requires_grad, **form
        )

    def __init__(self, own: Tensor) -> None:
        self.own = own.detach() if own.requires_grad else own

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, None)

    device = property(lambda self: ELSEWHERE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __repr__(self, **more: Any) -> str:
        return f"There({self.own!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> There:
        if id(self) not in memo:
            new = There(self.own.clone())
            new.requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                new._is_param = True
            memo[id(self)] = new
        return memo[id(self)]

    def __array__(self, *given: Any, **more: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    numpy = __array__

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.own.data_ptr()


class Draws(torch.Generator):
    """A generator that knows on which device it was asked for."""

    def __new__(cls, device: Any = "cpu") -> Draws:
        new = super().__new__(cls)
        new.elsewhere = torch.device(device).type == ELSEWHERE.type
        return new

    @property
    def device(self) -> torch.device:
        return ELSEWHERE if self.elsewhere else HOST


def _under(value: Any) -> Any:
    """ "cuda" in any form, as torch's own code shall see it."""
    if isinstance(value, str):
        return UNDER if value.partition(":")[0] == ELSEWHERE.type else value
    return UNDER if isinstance(value, torch.device) and value.type == ELSEWHERE.type else value


_FROM_DATA = frozenset((torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor))


def _tabled(index: Any) -> Any:
    """Lists in an index as tensors of the host: torch would put them on a device without numbers."""
    if isinstance(index, tuple):
        return tuple(map(_tabled, index))
    return torch.tensor(index, dtype=None if index else torch.int64) if isinstance(index, list) else index


class _Names(TorchFunctionMode):
    """Whoever says "cuda" to torch gets the device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.device or func in (Tensor.__format__, Tensor.__repr__):
            return func(*args, **(kwargs or {}))
        if func is Tensor.data_ptr:
            try:
                return func(*args)
            except RuntimeError:
                return 0  # one of functorch's wrappers around a tensor of the device
        args, kwargs = tuple(map(_under, args)), kwargs or {}
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _under(kwargs["device"])}
        draws = kwargs.get("generator")
        if isinstance(draws, Draws):
            there = (
                kwargs["device"] is UNDER if "device" in kwargs else any(isinstance(x, There) for x in args)
            )
            if there is not draws.elsewhere:
                raise RuntimeError(f"{func}: the generator is on {draws.device}, the result is not")
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _tabled(args[1]), *args[2:])
        if func in _FROM_DATA and kwargs.get("device") is UNDER:
            if isinstance(args[0], There):
                return args[0].to(UNDER, kwargs.get("dtype"))
            return func(*args, **(kwargs | {"device": HOST})).to(UNDER)
        return func(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """While it is open, "cuda" is a device of this machine.

    Attributes:
        waits: How often the host waited for the device: (operation, "file.py:line") -> times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Elsewhere:
        from interp.core import devices

        state = torch.zeros(1, dtype=torch.uint8)
        stand_ins: dict[str, Callable[..., Any]] = {
            "mem_get_info": lambda device=None: (2**34, 2**34),
            "get_rng_state": lambda device=None: state,
            "set_rng_state": lambda state, device=None: None,
            "manual_seed": lambda seed: None,
        }
        self._patches = [patch.object(torch.cuda, name, what) for name, what in stand_ins.items()]
        self._patches.append(patch.object(torch, "Generator", Draws))
        for one in self._patches:
            one.start()
        devices._tried.cache_clear()
        self._names = _Names()
        self._names.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        from interp.core import devices

        super().__exit__(*error)
        self._names.__exit__(*error)
        for one in self._patches:
            one.stop()
        devices._tried.cache_clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not types and "device" not in kwargs:
            return func(*args, **kwargs)
        return _run(func, args, kwargs, self)

    def wait(self, what: str) -> None:
        """Note that the host waits here."""
        self.waits[what, _line()] += 1

    def in_package(self) -> Counter[str]:
        """How often each line of the package made the host wait; what torch and transformers do is theirs."""
        found: Counter[str] = Counter()
        for (_, line), times in self.waits.items():
            if line:
                found[line] += times
        return found


def _line() -> str:
    """The innermost line of the package, if nothing but torch lies between it and the operation."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(PACKAGE)):
            return f"{name[len(str(PACKAGE)) + 1 :]}:{frame.f_lineno}"
        if "transformers" in name:
            return ""
        frame = frame.f_back
    return ""


class _Kind(NamedTuple):
    """What an operation is, read off its schema once."""

    name: str
    copies: bool
    writes: bool
    spreads: bool


@cache
def _kind(func: Any) -> _Kind:
    name = func.overloadpacket.__name__
    spreads = torch.Tag.pointwise in func.tags or name.startswith(("_foreach", "_fused")) or name in _INDEX
    return _Kind(name, name in _COPIES, func._schema.is_mutable, spreads)


def _run(func: Any, args: Any, kwargs: Any, mode: Elsewhere | None) -> Any:
    """The operation on what the tensors hold; its result on the device where it belongs."""
    kind, given = _kind(func), _Given()
    plain_args = given.plain(args)
    plain_kwargs = {key: given.plain(value) for key, value in kwargs.items()}
    there, here = given.there, given.here
    if there and here and not kind.copies:
        _check_one_device(func, kind, args, [*there, *here])
    out_there = bool(there) if given.device is None else given.device == UNDER
    if kind.name in ("copy_", "copy"):
        out_there = isinstance(args[0], There)
    if mode is not None and there and _waits(kind.name, args, out_there):
        mode.wait(kind.name)
    if "pin_memory" in plain_kwargs:
        plain_kwargs["pin_memory"] = False
    found = func(*plain_args, **plain_kwargs)
    if kind.name == "_efficientzerotensor":  # torch's own mark for zeros without memory
        found = torch.zeros(found.shape, dtype=found.dtype)
    if kind.name in ("_to_copy", "to") and out_there is not bool(there):
        # Between devices there is always a copy, also where the CPU would hand out its own tensor.
        found = found.clone() if any(found is x for x in plain_args) else found
    return _placed(found, there if kind.writes else ()) if out_there else found


class _Given:
    """The operands of an operation, sorted while what they hold is taken out."""

    def __init__(self) -> None:
        self.there: list[There] = []
        self.here: list[Tensor] = []
        self.device: torch.device | None = None

    def plain(self, value: Any) -> Any:
        """The same for the CPU."""
        if isinstance(value, There):
            self.there.append(value)
            return value.own
        if isinstance(value, Tensor):
            if value.is_meta:
                raise RuntimeError("a tensor without numbers")
            self.here.append(value)
        elif isinstance(value, list | tuple):
            return type(value)(map(self.plain, value))
        elif isinstance(value, torch.device):
            self.device = value
            return HOST
        return value


def _placed(found: Any, written: Sequence[There]) -> Any:
    """A result on the device; what was written into comes back as what was given."""
    if isinstance(found, Tensor):
        return next((x for x in written if x.own is found), There(found))
    if isinstance(found, list | tuple):
        return type(found)(_placed(one, written) for one in found)
    return found


def _waits(name: str, args: Any, out_there: bool) -> bool:
    if name in _WAIT:
        return True
    if name in ("_to_copy", "to", "copy_"):
        return not out_there
    if name == "repeat_interleave":
        return len(args) < 3 and isinstance(args[-1], Tensor)
    if name in _INDEX:
        return any(isinstance(i, There) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return False


def _check_one_device(func: Any, kind: _Kind, args: Any, tensors: list[Tensor]) -> None:
    """Raise as torch does: numbers without an axis may come from the CPU where they are spread."""
    if kind.name in _INDEX:
        tensors = [args[0], *(i for i in args[1] if isinstance(i, There)), *args[2:3]]
    here = [x for x in tensors if not isinstance(x, There) and not (kind.spreads and x.dim() == 0)]
    if here and len(here) < len(tensors):
        where = ["cuda" if isinstance(x, There) else "cpu" for x in tensors]
        raise MixedDevices(f"{func}: expected all tensors on one device, found {', '.join(where)}")


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a value holds, by where it is."""
    if isinstance(value, Tensor):
        yield path, value.own if isinstance(value, There) else value.detach()
        return
    items: Any = ()
    if isinstance(value, torch.nn.Module):
        items = {**dict(value.named_parameters()), **dict(value.named_buffers())}.items()
    elif isinstance(value, dict) or (hasattr(value, "keys") and hasattr(value, "__getitem__")):
        items = ((k, value[k]) for k in value)
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif hasattr(value, "__dataclass_fields__"):
        items = ((k, getattr(value, k)) for k in value.__dataclass_fields__)
    for key, one in items:
        yield from tensors_in(one, f"{path}.{key}")
