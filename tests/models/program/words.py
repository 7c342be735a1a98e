"""Edits in the package's own words."""

from __future__ import annotations

import interp
from tests.models.program.edits import Edit


def intervention(edit: Edit) -> interp.Intervention:
    """An edit in the package's own words."""
    at = {"positions": edit.positions}
    if edit.verb == "zero":
        return interp.zero(edit.site, head=edit.head, index=edit.index, **at)
    if edit.verb == "clamp":
        return interp.clamp(edit.site, edit.index, 0.3, **at)
    if edit.verb == "bounds":
        return interp.clamp(edit.site, edit.index, low=-0.2, high=0.4, **at)
    assert edit.vector is not None
    if edit.verb == "add":
        return interp.add(edit.site, edit.vector, 0.7, head=edit.head, **at)
    if edit.verb == "project_out":
        return interp.project_out(edit.site, edit.vector, head=edit.head, **at)
    make = interp.mean if edit.verb == "mean" else interp.patch
    return make(edit.site, edit.vector, head=edit.head, index=edit.index, **at)
