"""A request to forget, and the one workflow that joins locate, strategies and audit."""
