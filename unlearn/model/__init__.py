"""Models: loading, anatomy, hooks and every forward pass that audits make."""
