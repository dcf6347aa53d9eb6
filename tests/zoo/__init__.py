"""The zoo: other people's networks, random weights, nothing downloaded. `make test-zoo` runs it."""
