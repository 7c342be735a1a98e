"""Training steps with exact gradients, over active entries only."""
