"""Programs over sequences that compile to exact transformers: truth for every tool that looks inside.

```python
from operator import eq
from interp.rasp import aggregate, compile_program, indices, interpret, length, select, sequence_map, tokens

opposite = sequence_map(lambda n, i: n - 1 - i, length(), indices)
program = aggregate(select(indices, opposite, eq), tokens)       # reverse
interpret(program, "abc")                                        # ["c", "b", "a"]
compiled = compile_program(program, "abc")
compiled.run(["abc", "ba"])                                      # the transformer says the same
compiled.save("reverse")                                         # interp.load_model("reverse") opens it
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
