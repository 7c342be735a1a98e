"""`interp demo`: one page of sections; a file each, listed in `command.py`."""
