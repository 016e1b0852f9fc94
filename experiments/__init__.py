"""Studies with the library: scripts with the same flags and the same output."""
