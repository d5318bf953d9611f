"""One request with its response, from the head's arrival to the record of how it ended.

`ports` says what the client and the upstream side look like from here. `service` is the front door, `shared` what all
exchanges work with, `exchange` the life of one. `forwarding` writes the fields a proxy adds, `rewriting` checks what
middleware changed, `answers` are the responses the proxy gives itself.
"""
