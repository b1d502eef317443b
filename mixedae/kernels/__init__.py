"""Compiled inner loops of the method. :mod:`mixedae.functional` says what they compute and chooses among them."""
