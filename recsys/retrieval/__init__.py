"""Candidates for a request, from every source."""
