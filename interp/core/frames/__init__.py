"""What the fields of a result hold, and how it becomes a table."""
