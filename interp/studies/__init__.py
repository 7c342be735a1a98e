"""Studies: replications of papers that nothing else here builds on, one file each."""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
