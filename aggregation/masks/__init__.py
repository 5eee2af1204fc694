"""Secure aggregation: masked updates, which only their sum reveals. Imported only where it is used.

The client's distribution contains this package, through a symbolic link: its modules import each other
relatively.
"""
