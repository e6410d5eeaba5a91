"""What all commands have in common: what they print where, how they end, and how they log.

Results go to stdout, everything else to stderr: progress, notes, log records, errors. With `--json`
stdout holds one JSON document and nothing else.
"""
