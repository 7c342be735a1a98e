"""What the fields of a result hold and measure, and how it becomes a table."""
