"""What `store` stands on: system calls, locks, verified reading, tensors as a stream."""
