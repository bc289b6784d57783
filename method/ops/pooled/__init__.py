"""Block means and the attention between them."""
