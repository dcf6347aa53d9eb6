"""The search: which convolution becomes what, at which rank, for a budget -> Plan."""
