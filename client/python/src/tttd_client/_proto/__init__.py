"""The messages of ttt.v1, made from the protos while the package is built."""
