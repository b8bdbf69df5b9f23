"""What the program costs: one script a row of the table in `benchmarks/README.md`."""
