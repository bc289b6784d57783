"""What a run is told: the settings' schema, the registry of methods and tasks, the command line."""
