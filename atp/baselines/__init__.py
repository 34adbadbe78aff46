"""Other methods in the place of ATP's align, one module each.

A module has ``Settings``, which say what the method needs, and ``align``, with the signature of
``atp.method.align.align``: it changes the network in place and returns the history of its training.
"""
