"""The typed schema of every key in ``conf/`` and on the command lines: one module per command."""
