"""Networks of our own, in readable torch, and what describes them without it (arch, registry)."""
