"""The admin socket: what the daemon tells its administrator, and the stream of its clients' messages."""
