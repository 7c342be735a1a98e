"""Readers of labelled text, one format each."""
