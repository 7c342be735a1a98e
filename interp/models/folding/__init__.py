"""Norms and constants folded into the weights around them."""
