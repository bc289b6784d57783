"""XAttention's antidiagonal block scores."""
