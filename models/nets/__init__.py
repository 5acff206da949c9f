"""Networks of our own, in readable torch; importing a module of this package loads torch."""
