"""Hidden states and attention split into position and context."""
