"""The numerical work of probes: ridge, logistic, supports; one decomposition for all."""
