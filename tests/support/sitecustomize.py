"""No test, and no process a test starts, reaches the network.

An audit hook sees every connection Python makes, whichever library makes it. `tests/conftest.py`
installs it in the test process; this folder on PYTHONPATH installs it in every child (CLI runs,
notebook kernels). It imports nothing, so that import-cost measurements stay true.
"""

import os
import sys

LOOPBACK = ("127.", "::1", "localhost")
loopback_allowed = "INTERP_TEST_LOOPBACK" in os.environ


class NetworkBlocked(OSError):
    """A test tried to reach the network."""


def _is_local(host):
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    return host is None or (isinstance(host, str) and host.startswith(LOOPBACK))


def guard(event, args):
    """Refuse every connection but AF_UNIX, and loopback where it was allowed."""
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        if not isinstance(address, tuple):
            return  # AF_UNIX
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not (loopback_allowed and _is_local(host)):
        raise NetworkBlocked(f"the suite runs offline; {event} to {host!r} was refused")


sys.addaudithook(guard)


class _Absent:
    """An import system in which some packages are not installed (INTERP_TEST_ABSENT=a,b)."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


if os.environ.get("INTERP_TEST_ABSENT"):
    sys.meta_path.insert(0, _Absent(frozenset(os.environ["INTERP_TEST_ABSENT"].split(","))))
