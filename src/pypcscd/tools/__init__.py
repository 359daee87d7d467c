"""The sub-commands of ``pypcscd``: each module has ``main(arguments) -> exit status``."""
