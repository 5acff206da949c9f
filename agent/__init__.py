"""The board side: times inference on one board and reports what it saw, nothing more."""
