"""Weights read as tokens, and what becomes of a model when they are clamped."""
