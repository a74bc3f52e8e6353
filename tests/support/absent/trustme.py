"""This stands in the way of trustme for the programs that do not name it among their packages.

Sanic imports it where it is installed, only to look for it; that takes a quarter of a server's
start. The tests have it installed; a reader has it with one example alone.
"""

raise ImportError(__doc__)
