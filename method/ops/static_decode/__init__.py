"""Dense attention of one new token per row over buffers that are longer than the texts so far.

The lengths are a tensor on the device, so a step can be captured once and replayed for every token.
"""
