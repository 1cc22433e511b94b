"""The command line: parse options, call one engine function, print the result."""
