"""Readers of other people's files, one format each; `interp.tasks.load_task` and `load_labels`
choose among them by content."""
