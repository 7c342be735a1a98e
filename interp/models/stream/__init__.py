"""The residual stream as a sum of writers, read through norms held fixed."""
