"""Features, the LightGBM ranker, and the rules after it."""
