"""How good a dictionary is: reconstruction, recovery, absorption, stability."""
