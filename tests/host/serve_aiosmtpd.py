"""An SMTP server made of aiosmtpd. Arguments: a plain port, and one that requires a PROXY header.

Writes one JSON record a line for each message that it has taken, before it says so to the client.

Debian's aiosmtpd has been mended (CVE-2024-27305): mail data has lines that end in CRLF alone. Here that is taken back,
as in the library before 1.4.5: a line ends in LF.
"""

import asyncio
import json
import sys
import warnings

from aiosmtpd.smtp import SMTP

LONG = 2**20


class Handler:
    async def handle_PROXY(self, server, session, envelope, proxy_data):
        return True

    async def handle_DATA(self, server, session, envelope):
        record = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "data": envelope.content.hex()}
        print(json.dumps(record), flush=True)
        return "250 kept"


class Lenient(SMTP):
    line_length_limit = LONG

    def connection_made(self, transport):
        super().connection_made(transport)
        reader = self._reader
        reader._limit = LONG
        mended = reader.readuntil
        reader.readuntil = lambda separator=b"\n": mended(b"\n")


async def main(plain, proxied):
    loop = asyncio.get_running_loop()
    for port, timeout in [(plain, None), (proxied, 30)]:

        def server(timeout=timeout):
            return Lenient(Handler(), hostname="mx.test", proxy_protocol_timeout=timeout)

        await loop.create_server(server, "127.0.0.1", port)
    await asyncio.Event().wait()


warnings.simplefilter("ignore")
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
