"""Getting a shop's catalogue, reviews and events in, and out again as validated frames."""
