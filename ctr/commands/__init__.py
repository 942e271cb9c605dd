"""One module a noun, each with register(parser) and run(args, client, out)."""
