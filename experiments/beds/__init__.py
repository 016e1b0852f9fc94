"""What several studies train on: models, rows and requests of one kind."""
