// A server as people write them with `ws`: each message's number goes into a file.
//
//     node ws_server.js PORT LEDGER sync|async received|acked
//
// sync: the effect is done inside the 'message' event. async: the event puts messages into a queue,
// and a worker takes a millisecond for each. SIGTERM closes every connection; the queue is worked
// off.
'use strict';
const fs = require('fs');
const { setTimeout: sleep } = require('timers/promises');
const { WebSocketServer } = require('ws');

const [port, path, handler, level] = process.argv.slice(2);
const ledger = fs.openSync(path, 'a');
const effect = (message) => fs.writeSync(ledger, `${message.number}\n`);

// At level acked, these lines are what it takes.
const messages = (parcel) =>
  level === 'acked' ? parcel.messages.map((message) => message.data) : [parcel];
const ack = (ws, parcel) => {
  if (level !== 'acked' || ws.readyState !== ws.OPEN) return;
  ws.send(JSON.stringify({ acks: [{ id: parcel.id, seq: parcel.messages.at(-1).seq }] }));
};

const queue = [];
let working = Promise.resolve();
async function work() {
  for (; queue.length > 0; queue.shift()) {
    const [ws, parcel] = queue[0];
    for (const message of messages(parcel)) {
      await sleep(1);
      effect(message);
    }
    ack(ws, parcel);
  }
}

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port) });
server.on('listening', () => console.log('ready'));
server.on('connection', (ws) => {
  ws.on('error', () => {});
  ws.on('message', (text) => {
    const parcel = JSON.parse(text);
    if (handler === 'sync') {
      messages(parcel).forEach(effect);
      ack(ws, parcel);
    } else if (queue.push([ws, parcel]) === 1) {
      working = work();
    }
  });
});

process.on('SIGTERM', () => {
  server.close(() => working.then(() => process.exit()));
  for (const ws of server.clients) ws.close(1001);
});
