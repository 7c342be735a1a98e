"""The card of a bundled model as text, from its figures."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    "behaviour",
    "right",
    "interval",
    "top-1",
    "mass on answers",
    "nothing in front",
    "other wordings",
    "bar",
)


def card_text(figures: dict[str, Any]) -> str:
    """README.md of the model's folder."""
    return "\n".join(_grammar(figures) if "behaviours" in figures else _induction(figures)) + "\n"


def _head(figures: dict[str, Any], what: str, command: str) -> list[str]:
    return [
        f"# {figures['name']}",
        "",
        what,
        "",
        (
            f"{figures['parameters']:,} parameters, seed {figures['seed']}, {figures['steps']:,} "
            f"steps. Trained by `{command}`; the figures below are in `card.json`, a test holds "
            "the files to them. Licence: MIT, as the package."
        ),
        "",
    ]


def _grammar(f: dict[str, Any]) -> list[str]:
    lines = _head(
        f,
        "Four layers (RMS norm, rotary positions, gated MLP: as Llama), trained on the generated, "
        "English-like text of `interp.tasks.grammar`, so that every analysis has something true to "
        'find. `interp.load_model("tiny-grammar")`; its tasks: `interp tasks`.',
        "python scripts/train_bundled.py tiny-grammar",
    )
    lines += [
        f"## Behaviours, {f['prompts']:,} held-out prompts each",
        "",
        (
            "Rules: combinations of words that the corpus never contains. Facts (weekdays, months, "
            "pronouns, sentiment, capitals): templates that it never contains, drawn after the "
            "mixture was fixed, from what the corpus's parts can make and it leaves out; `other "
            "wordings` are sentences written after that by a hand that knew the words of the "
            "corpus and none of its sentences, and show how far a fact carries. Right "
            "means top-1 of the whole vocabulary (greater-than: any later year) or, for agreement, "
            "pronouns and sentiment, above every wrong word. 95 % Wilson interval. No seed was "
            "chosen."
        ),
        "",
        f"| {' | '.join(COLUMNS)} | seeds {', '.join(map(str, f['seeds']))} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in f["behaviours"].items():
        other = "" if row["other_wordings"] is None else f"{row['other_wordings']:.3f}"
        seeds = ", ".join(f"{share:.3f}" for share in f["by_seed"][name])
        lines.append(
            f"| {name} | {row['right']:.3f} | {row['low']:.3f}-{row['high']:.3f} | "
            f"{row['top1']:.3f} | {row['probability']:.3f} | "
            f"{row['without_sentences_in_front']:.3f} | {other} | {row['bar']} | {seeds} |"
        )
    sums, third = f["held_out_sums"], f["third_name"]
    lines += [
        "",
        (
            "Sums never seen (a model trained without one in ten of them, on those): weekdays "
            f"{sums['weekdays']:.3f}, months {sums['months']:.3f}. When a third person gives "
            f"(control): probability {third['first']:.2f} on the first name, "
            f"{third['second']:.2f} on the second, {third['giver']:.2f} on the giver."
        ),
        "",
        "## Mechanisms",
        "",
        *_heads(f["heads"]),
        "",
        "Direct logit attribution of the indirect object against the subject (mean of 200 prompts, "
        "logits): "
        + ", ".join(f"{head} {value:+.2f}" for head, value in f["attribution"]["heads"].items())
        + f"; three heads hold {100 * f['attribution']['share_of_three']:.0f} % of all heads' "
        f"absolute attribution (equal shares: "
        f"{100 * f['attribution']['uniform_share_of_three']:.0f} %).",
        "",
        "Ridge probes of what decides each answer, at the last token:",
        "",
        "| behaviour | best layer | accuracy | shuffled labels | fresh weights | majority |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['layer']} | {row['score']:.3f} | {row['shuffled']:.3f} | "
        f"{row['randomised']:.3f} | {row['majority']:.3f} |"
        for name, row in f["probes"].items()
    ]
    lines += [
        "",
        "## Per template",
        "",
        "Top-1 is over the whole vocabulary; restricted: the answer is above every wrong word.",
        "",
        "| template | prompts | top-1 | restricted |",
        "|---|---|---|---|",
    ]
    for name, row in f["behaviours"].items():
        for template, found in row["templates"].items():
            text = template.replace("|", "\\|")
            lines.append(
                f"| {name}: `{text}` | {found['n']} | {found['top1']:.3f} | {found['restricted']:.3f} |"
            )
    return lines


def _induction(f: dict[str, Any]) -> list[str]:
    seeds = ", ".join(f"{share:.3f}" for share in f["by_seed"]["repeated half"])
    return [
        *_head(
            f,
            "Two attention-only layers, no norm, that continue a list of random words when it is "
            "read a second time: a previous-token head feeds induction heads.",
            "python scripts/train_bundled.py induction-2l",
        ),
        (
            f"Repeated half of {f['prompts']:,} held-out lists: {f['repeated_half']:.3f} right "
            f"(seeds {', '.join(map(str, f['seeds']))}: {seeds})."
        ),
        "",
        *_heads(f["heads"]),
    ]


def _heads(heads: dict[str, Any]) -> list[str]:
    lines = ["| head | score | best of the randomised model |", "|---|---|---|"]
    for name, row in heads.items():
        for head, score in row["heads"].items():
            lines.append(f"| {name}: {head} | {score:.3f} | {row['randomised']:.3f} |")
    return lines
