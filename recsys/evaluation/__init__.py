"""Metrics per user, comparisons with intervals, and the pages that show them."""
