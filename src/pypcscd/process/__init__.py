"""What a daemon has to do with the system around it: its start, its sockets handed over, its log, its end."""
