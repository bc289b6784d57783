"""From settings to cells, and the facts of model and device behind them."""
