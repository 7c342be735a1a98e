"""One self-contained HTML page from any list of results, figures, tables, strips and text.

```python
interp.report([lens, patching, Section("Notes", ["One paragraph."])], "report.html", title="IOI")
```

The page needs no network and forbids it to itself (Content-Security-Policy); `report.json` beside
it holds the numbers.
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
