"""Data valuation: what each row is worth to a model trained on the data.

A utility is a pure function of a mask over the rows; every estimator asks it for
many masks in one program.
"""
