"""The night and the offline A/B, top to bottom, and the ``recsys`` command that runs them."""
