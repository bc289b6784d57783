"""Reading data: HELMET's files, copies from the hub, checked fields, and its random choices."""
