"""The door for clients: the Unix socket, and one session for each connection."""
