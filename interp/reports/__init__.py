"""One self-contained HTML page from any list of results, figures, tables, strips and text.

```python
interp.report([lens, patching, Section("Notes", ["One paragraph."])], "report.html", title="IOI")
```

The page needs no network and forbids it to itself (Content-Security-Policy); `report.json` beside
it holds the numbers.
"""

from interp.core.lazy import lazy

_EXPORTS = {
    "Item": "interp.reports.config:Item",
    "PageConfig": "interp.reports.config:PageConfig",
    "Section": "interp.reports.config:Section",
    "Table": "interp.reports.config:Table",
    "report": "interp.reports.page:report",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
