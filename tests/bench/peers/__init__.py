"""The proxies that stand side by side, each with a configuration that does the same work."""
