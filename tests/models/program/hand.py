"""A plain forward of a raw module with edits made by hand: the naive side of the property test.

Its hooks are a dozen lines each and know one raw module, one forward and one thread. Nothing of
the package's own passes, taps, installers, plans, splices or interventions is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.models.program.places import Place

Fn = Callable[[Tensor], Tensor]
Job = tuple[str, int | None, Fn]
"""(site, which call of its module, what to make of the value); in the order of application."""


class Float64(TorchFunctionMode):
    """Every request for float32 is one for float64: several families normalise, rotate or attend
    in float32 whatever their dtype, and 1e-10 is out of reach there."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.float:
            return args[0].double()
        if func is Tensor.type_as or not (args or kwargs):
            return func(*args, **kwargs)
        if torch.float32 in kwargs.values():
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        if func is Tensor.to and torch.float32 in args[1:]:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        return func(*args, **kwargs)


# --- inside attention ---------------------------------------------------------------------------

NAME = "by_hand"
_inside: dict[int, dict[str, Fn]] = {}


def attention_by_hand(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attention head by head, in the signature that transformers calls."""
    fns = _inside.get(id(module), {})
    if "rot_q" in fns:
        query = fns["rot_q"](query.transpose(1, 2)).transpose(1, 2)
    if "rot_k" in fns:
        key = fns["rot_k"](key.transpose(1, 2)).transpose(1, 2)
    n, share = query.shape[1], query.shape[1] // key.shape[1]
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.stack([query[:, h] @ key[:, h // share].transpose(-1, -2) * factor for h in range(n)], 1)
    if options.get("softcap"):
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    if options.get("position_bias") is not None:
        scores = scores + options["position_bias"]
    if attention_mask is not None:
        scores = scores + attention_mask
    if "scores" in fns:
        scores = fns["scores"](scores)
    pattern = torch.softmax(scores, -1)
    if "pattern" in fns:
        pattern = fns["pattern"](pattern)
    z = torch.stack([pattern[:, h] @ value[:, h // share] for h in range(n)], 2)
    return z, pattern


def use_attention_by_hand(module: nn.Module) -> None:
    """Let every attention of a raw module go through the function above."""
    from transformers.masking_utils import AttentionMaskInterface, eager_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attention_by_hand)
    AttentionMaskInterface.register(NAME, eager_mask)
    for part in module.modules():
        config: Any = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = NAME


ORDER = {"in": 0, "attention": 1, "scale": 2, "normalized": 3, "result": 4, "out": 5, "pair": 6}
ORDER["mid"] = 7

# --- one forward --------------------------------------------------------------------------------


class Forward:
    """One forward of a raw module: hooks on, run, hooks off."""

    def __init__(
        self,
        module: nn.Module,
        places: dict[str, Place],
        jobs: Sequence[Job],
        run: Callable[..., Any] | None = None,
    ) -> None:
        self.run = module if run is None else run
        self.modules = dict(module.named_modules())
        self.module, self.places = module, places
        self.fns: dict[str, list[tuple[int | None, Fn]]] = {}
        for name, call, fn in jobs:
            self.fns.setdefault(name, []).append((call, fn))
        self.calls: dict[str, int] = {}
        self.shape: tuple[int, int] = (1, 1)
        self.kept: dict[str, Tensor] = {}
        self.handles: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.handles.append(self.module.register_forward_pre_hook(self._note, with_kwargs=True))
        try:
            # On one module the hooks act in the order in which its sites are reached.
            for name in sorted(self.fns, key=lambda n: ORDER[self.places[n].how]):
                self._put(name, self.places[name])
            return self.run(*args, **kwargs)
        finally:
            for handle in self.handles:
                handle.remove()
            _inside.clear()

    def _note(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Rows and columns, for the parts that see them as one axis."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() == 2:
                self.shape = (value.shape[0], value.shape[1])
                return

    def _apply(self, name: str, value: Tensor) -> Tensor:
        call = self.calls.get(name, 0)
        self.calls[name] = call + 1
        for wanted, fn in self.fns[name]:
            if wanted in (None, call):
                value = fn(value)
        return value

    def _put(self, name: str, place: Place) -> None:
        module = self.modules[place.path]
        if place.how == "in":
            hook: Any = self._in(name, place)
            self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        elif place.how == "mid":
            self._mid(name, place, module)
        elif place.how == "attention":
            _inside.setdefault(id(module), {})[place.part] = lambda v: self._apply(name, v)
        elif place.how in ("scale", "normalized"):
            stem = name.rpartition(".")[0]
            if stem not in self.kept:  # both parts of one norm are edited by one hook
                self.kept[stem] = torch.empty(0)
                self.handles.append(module.register_forward_hook(self._norm(stem, place)))
        elif place.how == "result":
            self.handles.append(module.register_forward_hook(self._result(name, place)))
        else:
            self.handles.append(module.register_forward_hook(self._out(name, place)))

    def _in(self, name: str, place: Place) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if args:
                return (self._through(name, place, args[0]), *args[1:]), kwargs
            key = "hidden_states"
            return args, {**kwargs, key: self._through(name, place, kwargs[key])}

        return hook

    def _out(self, name: str, place: Place) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return self._through(name, place, output)
            if isinstance(output, dict):
                key = next(iter(output))
                return {**output, key: self._through(name, place, output[key])}
            parts = list(output)
            at = 1 if place.how == "pair" else 0
            parts[at] = self._through(name, place, parts[at])
            return tuple(parts)

        return hook

    def _mid(self, name: str, place: Place, module: nn.Module) -> None:
        """The residual stream between attention and MLP is what went into the block plus what
        attention adds; so what attention adds is changed by the difference."""
        begun: list[Tensor] = []

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            begun[:] = [args[0] if args else kwargs["hidden_states"]]

        def end(module: nn.Module, args: Any, output: Any) -> Any:
            added = output if isinstance(output, Tensor) else output[0]
            new = self._apply(name, begun[0] + added) - begun[0]
            return new if isinstance(output, Tensor) else (new, *output[1:])

        def write(module: nn.Module, args: Any) -> None:
            # In half precision the difference would be rounded once more.
            args[0].data.copy_(self._through(name, place, args[0].clone()))

        first = next(self.module.parameters())
        if first.dtype != torch.float64:
            self.handles.append(self.modules[place.part].register_forward_pre_hook(write))
            return
        block = self.modules[place.block]
        # Behind the hooks of the block's own sites: what they hand on begins the branch.
        self.handles.append(block.register_forward_pre_hook(begin, with_kwargs=True))
        self.handles.append(module.register_forward_hook(end))

    def _norm(self, stem: str, place: Place) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            x = args[0].unflatten(0, self.shape) if args[0].dim() == 2 else args[0]
            if place.norm == "ln":
                x = x - x.mean(-1, keepdim=True)
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            scale = (x.square().mean(-1, keepdim=True) + eps).sqrt()
            if f"{stem}.hook_scale" in self.fns:
                scale = self._apply(f"{stem}.hook_scale", scale)
            x = x / scale
            if f"{stem}.hook_normalized" in self.fns:
                x = self._apply(f"{stem}.hook_normalized", x)
            x = x * (module.weight + 1 if place.norm == "rms1" else module.weight)
            bias = getattr(module, "bias", None)
            return (x if bias is None else x + bias).reshape(output.shape)

        return hook

    def _result(self, name: str, place: Place) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            weight = module.weight if type(module).__name__ == "Conv1D" else module.weight.T
            z = args[0].unflatten(-1, (place.heads, -1))
            each = torch.stack(
                [z[..., h, :] @ part for h, part in enumerate(weight.unflatten(0, (place.heads, -1)))], -2
            )
            out = self._apply(name, each).sum(-2)
            return out if module.bias is None else out + module.bias

        return hook

    def _through(self, name: str, place: Place, raw: Tensor) -> Tensor:
        """Show the raw tensor as the activation that the name means; put the answer back."""
        whole = raw
        if place.axes in "dh" and raw.dim() == 2:
            whole = raw.unflatten(0, self.shape)
        if place.columns is not None:
            value = whole[..., slice(*place.columns)]
        elif place.inter is not None:
            value = whole.unflatten(-1, (place.heads, place.inter[1], -1))[..., place.inter[0], :]
        else:
            value = whole
        split = place.heads and place.inter is None and place.how != "result"
        shown = value.unflatten(-1, (place.heads, -1)) if split else value
        new = self._apply(name, shown)
        new = new.flatten(-2) if split else new
        if place.columns is not None:
            start, stop = place.columns
            new = torch.cat([whole[..., :start], new, whole[..., stop:]], -1)
        elif place.inter is not None:
            parts = list(whole.unflatten(-1, (place.heads, place.inter[1], -1)).unbind(-2))
            parts[place.inter[0]] = new
            new = torch.stack(parts, -2).flatten(-3)
        return new.reshape(raw.shape)
