"""What a run leaves behind: cells, records, identity, environment."""
