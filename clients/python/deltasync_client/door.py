"""Connections: plain, or over TLS with a token (R1, R2)."""

import grpc

# A default client of any language takes so much; the server sends no more (R4).
OPTIONS = [("grpc.max_receive_message_length", 4 * 1024 * 1024)]


def connect(address: str, ca_file: str | None = None, token: str | None = None) -> grpc.Channel:
    """`ca_file`: the authority that vouches for the server. `token`: shown with every call, and only
    over TLS: grpcio refuses to send it in plain text."""
    if ca_file is None:
        return grpc.insecure_channel(address, OPTIONS)
    with open(ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    if token is not None:
        shown = grpc.access_token_call_credentials(token)
        credentials = grpc.composite_channel_credentials(credentials, shown)
    return grpc.secure_channel(address, credentials, OPTIONS)
