"""One command for each table of the benchmark pages."""
