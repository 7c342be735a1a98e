"""Readers of prompts with known answers, one format each."""
