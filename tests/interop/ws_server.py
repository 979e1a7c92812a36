"""A server as people write them with `websockets`: each message's number goes into a file.

    ws_server.py PORT LEDGER sync|async received|acked

sync: the effect is done before the handler asks for the next message. async: the handler puts
messages into a queue, and a worker takes a millisecond for each. SIGTERM stops it as the library's
documentation says; the queue is worked off.
"""

import asyncio, json, os, signal, sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

port, path, handler, level = int(sys.argv[1]), *sys.argv[2:]
ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def effect(message):
    os.write(ledger, b"%d\n" % message["number"])


async def process(ws, text, pause):
    parcel = json.loads(text)
    # At level acked, these lines are what it takes.
    for message in [m["data"] for m in parcel["messages"]] if level == "acked" else [parcel]:
        await pause()
        effect(message)
    if level == "acked":
        try:
            ack = {"id": parcel["id"], "seq": parcel["messages"][-1]["seq"]}
            await ws.send(json.dumps({"acks": [ack]}))
        except ConnectionClosed:
            pass  # It will come again.


async def no_pause():
    pass


async def a_millisecond():
    await asyncio.sleep(0.001)


async def main():
    queue, stop = asyncio.Queue(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def handle(ws):
        async for text in ws:
            if handler == "sync":
                await process(ws, text, no_pause)
            else:
                queue.put_nowait((ws, text))

    async def work():
        while True:
            await process(*await queue.get(), a_millisecond)
            queue.task_done()

    worker = asyncio.create_task(work())
    async with serve(handle, "127.0.0.1", port):
        print("ready", flush=True)
        await stop.wait()
    await queue.join()
    worker.cancel()


asyncio.run(main())
