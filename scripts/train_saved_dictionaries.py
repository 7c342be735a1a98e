"""Trains the dictionaries in saved_dictionaries/, evaluates them, writes folders and cards.

    python scripts/train_saved_dictionaries.py          # all in one pass over tiny-grammar

The run lies in --runs and resumes where it was stopped. Held-out text is of the same grammar, from
batches that no dictionary (nor the model) has seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import interp
from interp.core.store import write_text
from interp.dictionaries import TrainConfig, evaluate, run_training
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar.corpus import batch

ROOT = Path(__file__).parents[1]
MODEL = "tiny-grammar"
HELD_OUT = 1_000_000
"""Number of the first held-out batch; the model's own training ends far below."""
BUDGET = 10 * 2**20
"""Bytes that all folders together may take."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Train, evaluate and write the saved dictionaries of the bundled model."""

    out: Path = ROOT / "saved_dictionaries" / MODEL
    """Where the folders and README.md are written."""
    runs: Path = Path("runs/saved_dictionaries")
    """Where checkpoints and metrics lie."""
    steps: int = 1200
    """Optimizer steps."""
    sequences: int = 25_600
    """Sequences of 64 tokens to train on, in epochs."""
    held_out: int = 1_600
    """Sequences to evaluate on: about 10^5 tokens."""


def configs(steps: int) -> list[TrainConfig]:
    """Two residual sites, the heads of one layer, the MLP of every layer."""
    base = TrainConfig(
        activation="batchtopk",
        k=16,
        d_sae=1024,
        steps=steps,
        batch_size=2048,
        lr=2e-3,
        k_start=64,
        k_anneal=steps // 4,
        dead_after=400_000,
        buffer_sequences=512,
        log_every=20,
    )
    found = [
        replace(base, name=f"layer{layer}_resid_post", site=f"blocks.{layer}.hook_resid_post")
        for layer in (1, 2)
    ]
    found.append(replace(base, name="layer2_z", site="blocks.2.attn.hook_z", d_sae=512))
    found += [
        replace(
            base,
            name=f"layer{layer}_transcoder",
            site=f"blocks.{layer}.ln2.hook_normalized",
            site_out=f"blocks.{layer}.hook_mlp_out",
        )
        for layer in range(4)
    ]
    return found


def sentences(first: int, n: int) -> Tensor:
    """Token ids [n, 64] of the corpus, from batch `first` on."""
    size = GrammarConfig().batch
    parts = [batch(GrammarConfig(seed=0), first + i)[0] for i in range(-(-n // size))]
    return torch.cat(parts)[:n]


def card(rows: dict[str, dict[str, Any]], command: str, fingerprint: str) -> str:
    """README.md of the folder: what each dictionary reads, and its scores on held-out text."""
    head = ("dictionary", "reads", "writes", "latents", "L0", "FVU", "CE recovered", "dead")
    lines = [
        f"# Dictionaries for {MODEL}",
        "",
        (
            f"Made by `{command}`, in one pass over the model; BatchTopK, in SAELens's layout (as "
            f"jumprelu). Model fingerprint {fingerprint[:16]}. `interp.dictionaries.load(folder)`."
        ),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['site_in']} | {row['site_out']} | {row['n_latents']} | "
            f"{row['l0']:.1f} | {row['fvu']:.4f} | {row['ce_recovered']:.4f} | {row['dead']} |"
        )
    first = next(iter(rows.values()))
    lines += [
        "",
        (
            f"Measured on {first['n_tokens']:,} held-out tokens, BOS left out. CE recovered: (mean-"
            "ablated - spliced) / (mean-ablated - intact). Dead: never fires on these tokens."
        ),
    ]
    return "\n".join(lines) + "\n"


def main(asked: Saved) -> None:
    """Train and write everything."""
    torch.set_num_threads(1)  # matrices this small are slower on several
    model = interp.load_model(MODEL)
    run = run_training(configs(asked.steps), sentences(0, asked.sequences), model=model, out=asked.runs)
    held_out = sentences(HELD_OUT, asked.held_out)
    command = f"python scripts/train_saved_dictionaries.py --steps {asked.steps}"
    rows: dict[str, dict[str, Any]] = {}
    for name, dictionary in run.dictionaries.items():
        sites = {"site_in": dictionary.site_in, "site_out": dictionary.site_out}
        rows[name] = evaluate(dictionary, model, held_out).summary() | sites
        dictionary.metadata |= {"scores": rows[name], "command": command}
        dictionary.save(asked.out / name, overwrite=True)
        print(name, {k: rows[name][k] for k in ("l0", "fvu", "ce_recovered", "dead")})
    write_text(asked.out / "README.md", card(rows, command, model.fingerprint()), overwrite=True)
    text = json.dumps(rows, indent=2)
    write_text(asked.out / "scores.json", text + "\n", overwrite=True)
    size = sum(f.stat().st_size for f in asked.out.rglob("*") if f.is_file())
    print(f"{asked.out}: {size:,} bytes")
    if size > BUDGET:
        raise SystemExit(f"more than {BUDGET:,} bytes")


if __name__ == "__main__":
    main(tyro.cli(Saved))
