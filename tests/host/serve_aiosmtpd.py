"""An SMTP server made of aiosmtpd. Arguments: a plain port, and one that requires a PROXY header.

Writes one JSON record a line for each message that it has taken, before it says so to the client.

Debian's aiosmtpd has been mended (CVE-2024-27305): a line of mail data ends in CRLF alone. Here that is taken back, so
that it ends in LF, as in the library before 1.4.5.
"""

import asyncio
import inspect
import json
import sys
import textwrap
import warnings

import aiosmtpd.smtp
from aiosmtpd.smtp import SMTP

LONG = 2**20


class Handler:
    async def handle_PROXY(self, server, session, envelope, proxy_data):
        return True

    async def handle_DATA(self, server, session, envelope):
        record = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "data": envelope.content.hex()}
        print(json.dumps(record), flush=True)
        return "250 kept"


def before_the_fix():
    source = textwrap.dedent(inspect.getsource(SMTP.smtp_DATA))
    for mended, before in [("readuntil(b'\\r\\n')", "readuntil(b'\\n')"), ("endswith(b'\\r\\n')", "endswith(b'\\n')")]:
        assert mended in source, "this is another aiosmtpd than expected"
        source = source.replace(mended, before)
    names = dict(vars(aiosmtpd.smtp))
    exec(source, names)
    return names["smtp_DATA"]


class Lenient(SMTP):
    line_length_limit = LONG
    smtp_DATA = before_the_fix()

    def connection_made(self, transport):
        super().connection_made(transport)
        self._reader._limit = LONG


async def main(plain, proxied):
    loop = asyncio.get_running_loop()
    for port, timeout in [(plain, None), (proxied, 30)]:

        def server(timeout=timeout):
            return Lenient(Handler(), hostname="mx.test", proxy_protocol_timeout=timeout)

        await loop.create_server(server, "127.0.0.1", port)
    await asyncio.Event().wait()


warnings.simplefilter("ignore")
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
