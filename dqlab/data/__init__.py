"""A dataset's way from a file or a server to tensors; looking at it, checking, converting."""
