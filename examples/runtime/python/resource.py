"""A stand-in for `resource`: a browser has no limits to set, so this remembers what was set."""

RLIM_INFINITY = -1
RLIMIT_NOFILE = 7
limits = {RLIMIT_NOFILE: (1024, 1048576)}


def getrlimit(which):
    return limits[which]


def setrlimit(which, pair):
    limits[which] = tuple(pair)


def getpagesize():
    return 65536
