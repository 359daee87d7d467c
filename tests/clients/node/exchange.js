// Exchange APDUs through @pokusew/pcsclite. See README.md for the command line.
'use strict';

const pcsclite = require('@pokusew/pcsclite');

const [wanted, ...apdus] = process.argv.slice(2);
const pcsc = pcsclite();
let busy = false;

function fail(what, err) {
  console.error(`${what}: ${err.message}`);
  process.exit(1);
}

function transmit(reader, protocol, rest) {
  if (rest.length === 0) {
    reader.disconnect(reader.SCARD_LEAVE_CARD, (err) => {
      if (err) fail('disconnect', err);
      // Not through close(): the binding cancels its waiting threads and joins them, and a cancel
      // that comes between two waits is lost, so about one process in 200 would never end.
      process.exit(0);
    });
    return;
  }
  reader.transmit(Buffer.from(rest[0], 'hex'), 258, protocol, (err, answer) => {
    if (err) fail('transmit', err);
    console.log('answer', answer.toString('hex').toUpperCase());
    transmit(reader, protocol, rest.slice(1));
  });
}

pcsc.on('error', (err) => fail('context', err));
pcsc.on('reader', (reader) => {
  console.log('reader', reader.name);
  reader.on('error', (err) => fail(reader.name, err));
  reader.on('status', (status) => {
    if (busy || !reader.name.includes(wanted) || !(status.state & reader.SCARD_STATE_PRESENT)) return;
    busy = true;
    console.log('atr', status.atr.toString('hex').toUpperCase());
    reader.connect({ share_mode: reader.SCARD_SHARE_SHARED }, (err, protocol) => {
      if (err) fail('connect', err);
      transmit(reader, protocol, apdus);
    });
  });
});
