"""Unlearning methods: one file each, readable as the paper's algorithm."""
