"""A forward is a pass: sites, what is asked of them, and the torch hooks that answer."""
