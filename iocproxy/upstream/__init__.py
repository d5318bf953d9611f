"""The servers behind the proxy: named groups (`group`), one server's pool (`server`), one connection (`connection`)."""
