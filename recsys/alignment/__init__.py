"""Projecting pictures, words and behaviour into one unit-norm item space."""
