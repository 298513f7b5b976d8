"""Between bytes on sockets and the planes behind them.

`calls` is the seam: what a transport hands to a service and what it gets back. `services` answers every RPC, bytes in
and bytes out, through `codec`; `grpcio` is a transport; `status` turns errors into gRPC's codes; `tls` holds
the certificates that a transport shows, which `pem` reads; `http` serves metrics and health; `client` is the other end
of the wire, for the commands.
"""
