"""How much weight the queries of a block give the mean key of every key block."""
