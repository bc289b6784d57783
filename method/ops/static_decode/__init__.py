"""Dense attention of one new token over buffers that are longer than the text so far.

The length is a tensor on the device, so a step can be captured once and replayed for every token.
"""
