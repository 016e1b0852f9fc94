"""Attacks: they try to tell what a model was trained on, or to bring it back.

A score is one number a row, pure and vmapped, and high speaks for membership.
"""
