"""RRAttention's block scores: one sampled query per stride against the sum of each stride's keys."""
