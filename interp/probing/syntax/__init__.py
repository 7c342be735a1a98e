"""Labels on tokens, and the trees that attention and hidden states hold."""
