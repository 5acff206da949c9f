"""Reaching boards: one typed session over interchangeable transports."""
