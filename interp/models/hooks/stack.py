"""What this thread's call stack says: which forward led to this one, whether it is a recomputation.

Frames are read, never kept: one that is held would keep every activation it knows.
"""

from __future__ import annotations

import sys

import torch
import torch.utils.checkpoint
from torch import nn

_TORCH = nn.Module._call_impl.__code__
"""What every call of a module goes through."""


def under_way(entry: nn.Module, outer: nn.Module) -> str:
    """How a forward of `entry`, begun since that of `outer`, led to the one that begins now.

    Returns:
        "forward": its own code did; "hook": a torch hook did; "" if there is none.
    """
    way, called, own = "forward", None, True
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename != _TORCH.co_filename:
            called = code  # in the end, what the next module called
        elif code is _TORCH:
            module = frame.f_locals["self"]
            if own:
                own = False  # the call that begins
            else:
                forward = getattr(module.forward, "__func__", module.forward)
                if called is not getattr(forward, "__code__", called):
                    way = "hook"
                if module is entry or module is outer:
                    return way if module is entry else ""
        frame = frame.f_back
    return ""


def checkpointed() -> bool:
    """Whether this is the first run of a part that torch will run again during backward."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)  # type: ignore[attr-defined]
    if hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint":
        return True
    if torch.is_grad_enabled():
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back
    return False
