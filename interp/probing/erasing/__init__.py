"""Taking a concept away, and what that took."""
