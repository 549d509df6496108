"""Programs of our own that run inside the sandbox as the caller, for what no standard program does safely.

They are started by `inner.run` with the interpreter alone, so they use the standard library only. Each is
a function from its arguments to an exit code; what it prints is read back by the tool's reader. They are
given hostile files and hostile names, and are not trusted: the sandbox bounds what they can do.
"""
