"""`python -m sepify` is `sepify`."""

from sepify.cli import main

main()
