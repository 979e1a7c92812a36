"""Exactly once in Python: a server of Bowline's `Numbered` with `websockets` and sqlite3.

    numbered.py PORT DATABASE

The format: see the documentation of `bowline_core::numbered`. A message's effect (here, a row) and
the sender's mark are stored in one transaction, and acknowledged after it. A message that comes again,
to this process or to the next one, is recognised by the mark and has no second effect.
"""

import asyncio, json, re, signal, sqlite3, sys

from websockets.asyncio.server import serve

SCHEMA = """
    CREATE TABLE IF NOT EXISTS mark (id TEXT PRIMARY KEY, seq INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS effect (place INTEGER PRIMARY KEY, data TEXT NOT NULL);
"""
MARK = "INSERT INTO mark VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET seq = excluded.seq"


def parse(text):
    """(id, base, [(seq, data), …]) of a frame; ValueError if no honest sender makes it."""
    try:
        parcel = json.loads(text)
        id, base = parcel["id"], parcel["base"]
        messages = [(each["seq"], each["data"]) for each in parcel["messages"]]
        if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{32}", id):
            raise ValueError("a binary frame, or no id")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError from error
    seqs = [seq for seq, _ in messages]
    if not seqs or any(type(seq) is not int or not 0 < seq < 2**53 for seq in [base, *seqs]):
        raise ValueError("a number is missing")
    if base > seqs[0] or any(a >= b for a, b in zip(seqs, seqs[1:])):
        raise ValueError("the numbers do not rise")
    return id, base, messages


def store(db, id, messages):  # Returns the mark.
    with db:
        db.execute("BEGIN IMMEDIATE")
        mark = (db.execute("SELECT seq FROM mark WHERE id = ?", [id]).fetchone() or [0])[0]
        for seq, data in messages:
            if seq > mark:
                db.execute("INSERT INTO effect (data) VALUES (?)", [json.dumps(data)])
                mark = seq
        db.execute(MARK, [id, mark])
    return mark


async def handle(db, ws):
    refusing = False
    async for text in ws:
        try:
            id, base, messages = parse(text)
        except ValueError:
            return await ws.close(1007)
        if refusing and messages[0][0] > base:
            continue  # It was sent behind the refused message, and will come again.
        try:
            answer = {"acks": [{"id": id, "seq": store(db, id, messages)}]}
            refusing = False
        except sqlite3.OperationalError as error:  # Locked, or the disk is full.
            print(f"refused: {error}", flush=True)
            answer = {"nacks": [{"id": id, "seq": messages[0][0], "reason": "transient"}]}
            refusing = True
        await ws.send(json.dumps(answer))


async def main(port, path):
    db, stop = sqlite3.connect(path, timeout=0.1, isolation_level=None), asyncio.Event()
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(lambda ws: handle(db, ws), "127.0.0.1", port):
        print("ready", flush=True)
        await stop.wait()


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
