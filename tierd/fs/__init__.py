"""File-system primitives by directory descriptor: nothing here follows a link or trusts a name.

Everything that touches a tree (observing, copying, proving, releasing) goes through this package.
Names and relative paths are bytes; the root of a tree is an open directory descriptor.
"""
