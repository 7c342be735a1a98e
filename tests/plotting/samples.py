"""A lens result with known contents, and strings that break pages."""

from __future__ import annotations

import random

import torch

from interp.core.provenance import Provenance

NASTY = (
    "<s>",
    "</s>",
    "<b>bold</b>",
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "<a href=javascript:alert(1)>",
    "&lt;",
    "&amp;amp;",
    "$x$",
    "%{x}",
    " a",
    "a",
    "\n",
    "\t\r",
    '"quoted"',
    "it's",
    "`${alert(1)}`",
    "the",
    "the",
    "\x00",
    "\ud800",
    "\u202egnp.exe",
    "",
    "e\u0301\u0301\u0301",
    "日本語",
    "🙂‍🙃",
    "\u2028",
    "\\u003c",
    "{{ 7*7 }}",
    "{% if x %}",
)
"""The tokens of methods/pictures.md section 2, and worse."""

PIECES = (
    "<",
    ">",
    "</script>",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"',
    "'",
    "<!--",
    "-->",
    "<!--<script>",
    "]]>",
    "\x00",
    "\ud800",
    "\udfff",
    "\u202e",
    "\u2028",
    "&",
    ";",
    "&lt;",
    "javascript:alert(1)",
    "<svg onload=alert(1)>",
    "</title>",
    "</style>",
    "</textarea>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    " onclick=alert(1) ",
    "{{",
    "}}",
    "{%",
    "%}",
    "%{",
    "$",
    "\\",
    "`",
    "<br>",
    "<a href='javascript:alert(1)'>x</a>",
    "\n",
    "\r\n",
    "\t",
    " ",
    "x",
    "the",
    "é",
    "日",
    "\uffff",
    "\x1b[31m",
    "</details>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0>",
    "style=position:fixed",
    "data-spec=d1",
    "<plaintext>",
)


def hostile(n: int, seed: int = 0) -> list[str]:
    """`n` strings glued from `PIECES`; one of them is 100 KB long."""
    rng = random.Random(seed)
    strings = ["".join(rng.choices(PIECES, k=rng.randint(1, 6))) for _ in range(n - 1)]
    return [*strings, "<script>alert(1)</script>" * 4_000]


def lens_result(tokens: tuple[str, ...] = ("a", "b", "c", "d", "e"), n_layers: int = 3) -> object:
    """A lens over `tokens`, k = 2; the last row's top-1 first appears in row `pos % n_layers`."""
    from interp.lenses.result import LensResult

    n, k = len(tokens), 2
    ids = torch.zeros(n_layers, n, k, dtype=torch.long)
    ids[..., 1] = 1
    for pos in range(n):
        ids[pos % n_layers :, pos, 0] = 7
    grid = torch.arange(n_layers * n, dtype=torch.float32).reshape(n_layers, n)
    share = (grid + 1) / (n_layers * n + 1)
    return LensResult(
        probs_top=torch.stack([share, (1 - share) / 2], dim=-1),
        ids_top=ids,
        entropy=grid / 10,
        kl=grid.flip(0) / 10,
        target_prob=share / 2,
        target_rank=(n_layers * n - 1 - grid).long(),
        tokens=tokens,
        top_tokens=tuple(
            tuple((tokens[pos], tokens[(pos + layer) % n]) for pos in range(n)) for layer in range(n_layers)
        ),
        targets=tokens,
        components=("embed", *(f"L{layer} post" for layer in range(n_layers - 1))),
        kind="logit",
        tolerance=1e-4,
        provenance=provenance(),
    )


def provenance(model: str = "tiny") -> Provenance:
    """Where nothing came from."""
    return Provenance(
        model=model,
        model_fingerprint="f" * 64,
        sites=("blocks.0.hook_resid_post",),
        d_in=7,
        dtype="float32",
        prepend_bos=True,
        tokenizer_hash=None,
        normalisation=None,
        data_fingerprint=None,
        versions={"torch": "2"},
        notes=(),
    )
