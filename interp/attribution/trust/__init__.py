"""How far to trust scores: known answers, perturbation, agreement, pruning."""
