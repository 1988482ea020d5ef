"""One module a subcommand: parse, build a config, make one call."""
