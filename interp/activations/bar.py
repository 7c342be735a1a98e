"""Progress bars: on a terminal only, and with a lock that no other process can hold."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

# Generic in its types only: the class itself takes no parameter.
_Tqdm = tqdm[Any] if TYPE_CHECKING else tqdm


class Bar(_Tqdm):
    """tqdm's bar; silent unless its stream is a terminal.

    tqdm's own lock is shared with every forked process: one that is killed while it holds it stops
    all the others at their next bar. This one belongs to the process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"disable": None, **kwargs})


Bar.set_lock(RLock())
