"""One file per study: what it asks, trains, unlearns and measures."""
