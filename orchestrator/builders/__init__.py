"""Builds on other machines: over ssh, or on a Dask cluster (models.remote is what they say)."""
