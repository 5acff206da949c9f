"""Published studies beside what a run measured: tables, ratios, and which findings repeat."""
