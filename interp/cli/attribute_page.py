"""From one example to one record, and from all records to the attribution page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from interp.attribution import attribute, attribute_generated, attribute_pair
from interp.attribution.result import Attribution
from interp.attribution.trust.agreement import agreement
from interp.attribution.trust.faithfulness import RANDOM, faithfulness
from interp.core.store import read_jsonl
from interp.models.hooked import HookedModel
from interp.reports.gallery import Example, Gallery, Grid, Strip, gallery

JUDGED = ("insertion_area", "deletion_area", "comprehensiveness", "sufficiency", "infidelity")
TEXT_PROSE = (
    (
        "Every token is coloured by its score for the target: blue raises it, red lowers it, full "
        "colour at the largest of the text. Beside each method stands what its scores sum to and what "
        "they should: f(text) - f(baseline). A gap above 1 % is written out; methods that promise no "
        "sum say so."
    ),
    (
        "Methods that agree are not thereby right. The second table removes tokens in the order of "
        "their scores: insertion should be high, deletion low, and both better than the random order."
    ),
)
PAIR_PROSE = (
    (
        "Each cell is the share of the similarity that two tokens make together. The cells sum "
        "to f(a,b) - f(r,b) - f(a,r) + f(r,r), where r is the reference; the terms are written beside "
        "each matrix, and the gap is what the numerical integration missed."
    ),
)


def text_record(
    model: HookedModel,
    text: Any,
    aim: Callable[[Any], Any] | None,
    methods: Sequence[str],
    baseline: str,
    at: str | None,
) -> dict[str, Any]:
    """One text by every method, with its tests of faithfulness; plain JSON values."""
    target = aim(text) if aim is not None else None
    options = {"baseline": baseline, "at": at}
    found = {m: attribute(model, text, target, method=m, **options) for m in methods}
    flat = {m: [one] for m, one in found.items() if one.unit_scores is None}
    judged: dict[str, list[float]] = {}
    if flat and len(next(iter(found.values())).tokens) > 1:
        trust = faithfulness(model, [text], target, flat, baseline=baseline, site=at)
        names = trust.labels["method"]
        judged = {n: [float(getattr(trust, key)[i]) for key in JUDGED] for i, n in enumerate(names)}
    first = next(iter(found.values()))
    return {
        "tokens": list(first.tokens),
        "target": first.target,
        "baseline": first.baseline,
        "site": first.site,
        "value": first.value,
        "base_value": first.base_value,
        "methods": {m: _plain(one) for m, one in found.items()},
        "judged": judged,
    }


def generated_record(model: HookedModel, text: Any, n: int, method: str, baseline: str) -> dict[str, Any]:
    """Which tokens each of `n` tokens that the model writes rests on; plain JSON values."""
    one = attribute_generated(model, text, n, method=method, baseline=baseline)
    known = len(one.tokens) - len(one.generated)
    rows = [[round(v, 6) for v in row[: known + i]] for i, row in enumerate(one.scores.tolist())]
    worst = f", largest gap {100 * float(one.gaps.max()):.2g} %" if one.complete else ""
    return {
        "rows": list(one.generated),
        "columns": list(one.tokens[:-1]),
        "scores": rows,
        "note": f"what raised the log-probability of every token written, by {method}{worst}",
    }


def pair_record(model: HookedModel, texts: Sequence[Any], reference: str, at: str | None) -> dict[str, Any]:
    """One pair of texts; plain JSON values."""
    one = attribute_pair(model, texts[0], texts[1], reference=reference, site=at)
    return {
        "tokens_a": list(one.tokens_a),
        "tokens_b": list(one.tokens_b),
        "scores": [[round(v, 6) for v in row] for row in one.scores.tolist()],
        "terms": [one.f_ab, one.f_rb, one.f_ar, one.f_rr],
        "gap": one.relative_gap,
        "nodes": sum(one.nodes),
        "half": one.concentration(),
        "note": f"{one.similarity} at {one.site}, reference {one.reference}; {one.gap_sentence}",
        "converged": one.converged,
    }


def write_page(place: Path, subtitle: str, pairs: bool) -> None:
    """report.html and report.json from the folder's records."""
    records = read_jsonl(place / "examples.jsonl")
    build = _pair_page if pairs else _text_page
    gallery(build(records, subtitle), place / "report.html", overwrite=True)


def _plain(one: Attribution) -> dict[str, Any]:
    relative = min(one.relative_gap, 1e9)
    return {
        "scores": [round(v, 6) for v in one.scores.tolist()],
        "gap": relative,
        "complete": one.complete,
        "converged": one.converged,
        "note": one.gap_sentence,
        "passes": one.n_forward,
    }


def _text_page(records: list[dict[str, Any]], subtitle: str) -> Gallery:
    names = list(records[0]["methods"])
    examples = []
    for record in records:
        numbers = {
            "f(text)": record["value"],
            "f(text) - f(baseline)": record["value"] - record["base_value"],
            "tokens": float(len(record["tokens"])),
        }
        for name in names:
            method = record["methods"][name]
            if method["complete"]:
                numbers[f"gap of {name}"] = method["gap"]
        strips = [
            Strip(n, record["tokens"], record["methods"][n]["scores"], record["methods"][n]["note"])
            for n in names
        ]
        about = f"{record['text']}  ·  {record['target']}"
        examples.append(Example(about, numbers, strips, _written(record)))
    first = records[0]
    return Gallery(
        "Which tokens did it",
        f"{subtitle} · baseline {first['baseline']} · at {first['site']}",
        TEXT_PROSE,
        _summaries(records, names),
        examples,
    )


def _written(record: dict[str, Any]) -> list[Grid]:
    """The source x generated matrix, where one was asked for."""
    found = record.get("generated")
    if found is None:
        return []
    columns = found["columns"]
    values = [[*row, *[None] * (len(columns) - len(row))] for row in found["scores"]]
    return [Grid("What the model wrote", found["rows"], columns, values, found["note"], tokens=True)]


def _summaries(records: list[dict[str, Any]], names: list[str]) -> list[Grid]:
    scores = {n: [torch.tensor(r["methods"][n]["scores"]) for r in records] for n in names}
    found = []
    if len(names) > 1:
        alike = agreement(scores)
        low, high = alike.kendall_low, alike.kendall_high
        widest = float((high - low).max())
        groups = "; ".join(" = ".join(c) for c in alike.clusters if len(c) > 1) or "none"
        note = (
            f"mean Kendall tau over {len(records)} texts, widest 95 % interval {widest:.2f}; "
            f"methods that are one (tau of at least 0.9): {groups}"
        )
        found.append(Grid("Agreement", names, names, alike.kendall.tolist(), note))
        found.append(
            Grid(
                f"Overlap of the {alike.k} leading tokens",
                names,
                names,
                alike.top_k.tolist(),
                "Jaccard, mean over texts",
            )
        )
    judged = [r["judged"] for r in records if r["judged"]]
    if judged:
        rows = [*(n for n in names if n in judged[0]), RANDOM]
        means = torch.tensor([[j[n] for n in rows] for j in judged]).mean(0)
        note = (
            "shares of f(text) - f(baseline), mean over texts; insertion and comprehensiveness: "
            "higher is better, the others: lower"
        )
        heads = [key.replace("_", " ") for key in JUDGED]
        found.append(Grid("Faithfulness", rows, heads, means.tolist(), note))
    gaps = [_gaps([r["methods"][n] for r in records]) for n in names]
    found.append(
        Grid(
            "Completeness and cost",
            names,
            ["share of gaps above 1 %", "largest gap", "passes per text"],
            gaps,
            "gaps relative to f(text) - f(baseline)",
            coloured=False,
        )
    )
    return found


def _gaps(rows: list[dict[str, Any]]) -> list[float]:
    """Share of gaps above 1 %, largest gap, mean number of passes."""
    late = sum(row["gap"] > 0.01 for row in rows) / len(rows)
    return [late, max(row["gap"] for row in rows), sum(row["passes"] for row in rows) / len(rows)]


def _pair_page(records: list[dict[str, Any]], subtitle: str) -> Gallery:
    examples = []
    for r in records:
        a, b = r["tokens_a"], r["tokens_b"]
        names = ("f(a,b)", "f(r,b)", "f(a,r)", "f(r,r)")
        numbers: dict[str, float | None] = dict(zip(names, r["terms"], strict=True))
        numbers |= {
            "relative gap": r["gap"],
            "share of pairs for half of it": r["half"],
            "nodes": float(r["nodes"]),
            "tokens": float(len(a) + len(b)),
        }
        grid = Grid("", a, b, r["scores"], r["note"], tokens=True)
        examples.append(Example(r["text"], numbers, (), (grid,)))
    gaps = [r["gap"] for r in records]
    late = sum(not r["converged"] for r in records)
    half = sorted(r["half"] for r in records)[len(records) // 2]
    facts = Grid(
        "All pairs",
        ["measured"],
        [
            "largest relative gap × 1000",
            "share above 1e-3",
            "not converged",
            "median share of pairs that make half",
        ],
        [[1e3 * max(gaps), sum(g > 1e-3 for g in gaps) / len(gaps), float(late), half]],
        "four-term identity: sum of cells = f(a,b) - f(r,b) - f(a,r) + f(r,r)",
        coloured=False,
    )
    return Gallery("Which token pairs make texts similar", subtitle, PAIR_PROSE, [facts], examples)
