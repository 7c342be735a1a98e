"""What a neuron says through the heads above it."""
