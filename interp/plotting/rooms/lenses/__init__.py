"""The pictures of lenses, attention, decompositions and weights."""
