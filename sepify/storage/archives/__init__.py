"""torch's model files, read before torch reads them.

Each kind of file has its list of entries, of classes, of operators that it may hold; what is not on
the list is refused by name. torch is given an archive written anew from what was checked.
"""
