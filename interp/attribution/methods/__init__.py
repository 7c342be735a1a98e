"""How scores are made: gradients, rules, paths, attention, captum's engines."""
