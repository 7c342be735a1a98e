"""What attention heads look at: on texts, in syntax, from weights alone."""
