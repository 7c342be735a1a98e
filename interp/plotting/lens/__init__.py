"""The pictures of what lenses give."""
