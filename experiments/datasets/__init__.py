"""One loader per source of data."""
