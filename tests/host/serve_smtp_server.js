// An SMTP server made of smtp-server. Arguments: the module's folder, a plain port, and one that requires a PROXY header.
// Writes one JSON record a line for each message that it has taken, before it says so to the client.
'use strict';

const fs = require('fs');
const [folder, plain, proxied] = process.argv.slice(2);
const { SMTPServer } = require(folder);

for (const [port, useProxy] of [[plain, false], [proxied, true]]) {
    const server = new SMTPServer({
        name: 'mx.test',
        useProxy,
        authOptional: true,
        disabledCommands: ['AUTH', 'STARTTLS'],
        disableReverseLookup: true,
        onData(stream, session, done) {
            const pieces = [];
            stream.on('data', piece => pieces.push(piece));
            stream.on('end', () => {
                const { mailFrom, rcptTo } = session.envelope;
                const record = {
                    from: mailFrom.address,
                    to: rcptTo.map(to => to.address),
                    data: Buffer.concat(pieces).toString('hex')
                };
                fs.writeSync(1, JSON.stringify(record) + '\n');
                done(null, 'kept');
            });
        }
    });
    // A client that breaks off is no reason to end.
    server.on('error', error => fs.writeSync(2, `${error.message}\n`));
    server.listen(Number(port), '127.0.0.1');
}
