"""Baselines that replace ATP's align, one module each.

A module defines ``Settings``, which also declares the method's requirements, and ``align``, with the signature of
``atp.method.align.align``: it trains the network in place and returns the training history.
"""
