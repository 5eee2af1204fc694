"""The mask keeper: it reveals the sum of the masks of a cohort, and never a single one.

A function of its own, in an account of its own. It never sees a masked update.
"""
