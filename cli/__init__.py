"""The command line. It prints; the logic lies below it."""
