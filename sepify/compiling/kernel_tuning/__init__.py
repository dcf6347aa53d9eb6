"""The search for good knobs of our own kernels: candidates are built and timed in a process of
their own, and what was measured is kept in a file of records."""
