"""What the user types: parse, call one engine function, print."""
