"""The ground floor: modules and nodes, the convolutions of a graph, and running it."""
