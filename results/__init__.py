"""The store of past runs: schema, queries, statistics and comparisons."""
