"""The door for devices: what is configured or plugged in is opened, kept open and given up."""
