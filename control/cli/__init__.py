"""The command line: a thin client of the REST API. It never imports the server, so that it starts at once."""
