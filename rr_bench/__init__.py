"""The harness: config -> plan -> cells -> records -> report."""
