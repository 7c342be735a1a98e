"""The compact transformer behind `hooked_transformer.json`."""
