"""From what a user passes to what a model reads: tokens, masks, positions, one door."""
