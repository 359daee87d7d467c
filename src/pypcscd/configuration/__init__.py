"""What the daemon is to do, as the command line, the environment and pypcscd.toml say it."""
