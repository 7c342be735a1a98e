"""From the results of many texts, or pairs of texts, to the sections of their page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from interp.attribution import Agreement, Attribution, Faithfulness, GeneratedAttribution, PairAttribution
from interp.reports import Entry, Gallery, Item, Section, Table

TEXT_PROSE = (
    "Every token is coloured by its score for the target: blue raises it, red lowers it, full colour at "
    "the largest of the text. Beside each method stands what its scores sum to and what they should: "
    "f(text) - f(baseline). A gap above 1 % is written out; methods that promise no sum say so.\n\n"
    "Methods that agree are not thereby right. Faithfulness removes tokens in the order of their scores: "
    "insertion should be high, deletion low, and both better than the random order."
)
PAIR_PROSE = (
    "Each cell is the share of the similarity that two tokens make together. The cells sum to f(a,b) - "
    "f(r,b) - f(a,r) + f(r,r), where r is the reference; the terms are drawn beside each matrix, and the "
    "gap is what the numerical integration missed."
)
TRUST_PROSE = (
    "Shares of f(text) - f(baseline), over texts the ratio of sums. Insertion and comprehensiveness: "
    "higher is better; deletion, sufficiency and infidelity: lower. `eraser_comprehensiveness` and "
    "`eraser_sufficiency` are DeYoung's, differences of f in its own unit.{sure}"
)
INTERVAL = " `area` is insertion minus deletion, with its interval over texts."


class Page(NamedTuple):
    """What `report` is given."""

    title: str
    """Heading."""
    subtitle: str
    """How many texts, and what absence means."""
    prose: str
    """How to read it."""
    sections: list[Section]
    """All texts, then one by one."""


def text_page(
    texts: Sequence[str],
    found: Mapping[str, Sequence[Attribution]],
    written: Sequence[GeneratedAttribution],
    alike: Agreement | None,
    trust: Faithfulness | None,
) -> Page:
    """Tokens coloured by every method, with what tells how far to trust them.

    Args:
        texts: As the user gave them.
        found: Method -> its attribution of every text.
        written: What each token that the model wrote rests on, per text; empty if not asked for.
        alike: Agreement of the methods, where there are several.
        trust: Faithfulness over all texts, where whole positions can be removed.
    """
    first = next(iter(found.values()))[0]
    entries = []
    for index, (text, ones) in enumerate(zip(texts, zip(*found.values(), strict=True), strict=True)):
        numbers = {
            "f(text)": ones[0].value,
            "f(text) - f(baseline)": ones[0].difference,
            "tokens": len(ones[0].tokens),
        }
        numbers |= {f"gap of {one.method}": min(one.relative_gap, 1e9) for one in ones if one.complete}
        strips = [Item(one, plot={"strip": True}) for one in ones]
        content = [*strips, *written[index : index + 1]]
        entries.append(Entry(f"{text}  ·  {ones[0].target}", content, numbers))
    several = [*_agreement(alike), *_faithfulness(trust), _cost(found)]
    return Page(
        "Which tokens did it",
        f"{_count(len(texts), 'text')} · baseline {first.baseline} · at {first.site}",
        TEXT_PROSE,
        [Section("All texts", several), Section("Text by text", [Gallery(entries)])],
    )


def pair_page(texts: Sequence[str], found: Sequence[PairAttribution]) -> Page:
    """A matrix per pair of texts, and how exact they are."""
    entries = []
    for text, one in zip(texts, found, strict=True):
        numbers = {
            "f(a,b)": one.f_ab,
            "f(r,b)": one.f_rb,
            "f(a,r)": one.f_ar,
            "f(r,r)": one.f_rr,
            "relative gap": one.relative_gap,
            "share of pairs for half of it": one.concentration(),
            "nodes": sum(one.nodes),
            "tokens": len(one.tokens_a) + len(one.tokens_b),
        }
        entries.append(Entry(text, [one], numbers))
    gaps = [one.relative_gap for one in found]
    half = sorted(one.concentration() for one in found)[len(found) // 2]
    facts = {
        "largest relative gap": max(gaps),
        "share of pairs with a gap above 1e-3": sum(gap > 1e-3 for gap in gaps) / len(gaps),
        "pairs not converged": sum(not one.converged for one in found),
        "median share of token pairs that make half": half,
    }
    table = Table(["measured", "value"], list(facts.items()), "Exactness")
    return Page(
        "Which token pairs make texts similar",
        _count(len(texts), "pair"),
        PAIR_PROSE,
        [Section("All pairs", [table]), Section("Pair by pair", [Gallery(entries)])],
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _agreement(alike: Agreement | None) -> list[Item]:
    if alike is None:
        return []
    groups = "; ".join(" = ".join(each) for each in alike.clusters if len(each) > 1) or "none"
    one = f"Methods that are one (mean Kendall tau of at least 0.9): {groups}."
    overlap = f"Overlap of the {alike.k} leading tokens (Jaccard), mean over texts."
    return [Item(alike, prose=one), Item(alike.plot(field="top_k"), prose=overlap)]


def _faithfulness(trust: Faithfulness | None) -> list[Item]:
    if trust is None:
        return []
    measured = trust.to_frame("insertion_area").dropna(axis="columns", how="all")
    prose = TRUST_PROSE.format(sure="" if trust.area_low is None else INTERVAL)
    return [Item(measured, "Faithfulness", prose), Item(trust), Item(trust.plot(field="deletion"))]


def _cost(found: Mapping[str, Sequence[Attribution]]) -> Item:
    rows = []
    for method, ones in found.items():
        gaps = [min(one.relative_gap, 1e9) for one in ones]
        late = sum(gap > 0.01 for gap in gaps) / len(gaps)
        rows.append([method, late, max(gaps), sum(one.n_forward for one in ones) / len(ones)])
    columns = ["method", "share of gaps above 1 %", "largest gap", "passes per text"]
    return Item(
        Table(columns, rows, "Completeness and cost"), prose="Gaps relative to f(text) - f(baseline)."
    )
