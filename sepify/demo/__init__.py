"""Real data and a trained network that ship with the package, and the script that made them."""
