"""Changes of a network's structure, each repeated by its parameters when a network is loaded."""
