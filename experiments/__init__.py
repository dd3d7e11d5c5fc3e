"""Studies: one entry point each (``python -m experiments.NAME``).

A package of the checkout, not of the wheel.
"""
