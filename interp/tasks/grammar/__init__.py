"""The text that the bundled model is trained on, and the questions that it answers."""
