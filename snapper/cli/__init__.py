"""The command line: parse options, call one function of the API or a command, and print the result."""
