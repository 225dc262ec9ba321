"""Probes: one measurement of a model on a forget set each; one file a family."""
