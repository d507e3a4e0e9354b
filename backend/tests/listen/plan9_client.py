"""Uses a server as a Plan 9 program would, by the package python-9p, whose wire codec is plan9port's own.

    plan9_client.py unix PATH | tcp HOST PORT

Ends with a traceback and a status that is not 0 at the first surprise.
"""

import sys
from dataclasses import replace

from py9p import client as py9p
from py9p.constants import NOFID
from py9p.messages import Dir, Qid
from py9p.native import decode_dir

OREAD, OWRITE, ORDWR, OTRUNC, ORCLOSE = 0, 1, 2, 0x10, 0x40
DMDIR = 0x80000000
ROOT = 0
UNTOUCHED = Dir(
    type=0xFFFF,
    dev=0xFFFFFFFF,
    qid=Qid(path=0xFFFFFFFFFFFFFFFF, vers=0xFFFFFFFF, type=0xFF),
    mode=0xFFFFFFFF,
    atime=0xFFFFFFFF,
    mtime=0xFFFFFFFF,
)


def changed(length=None, **fields):
    """A record that leaves everything but what is given."""
    record = bytearray(replace(UNTOUCHED, length=length or 0, **fields).to_bytes())
    if length is None:
        # The package has no number for "leave it" here.
        record[33:41] = b"\xff" * 8
    return bytes(record)


def expect_error(words, call, *args):
    try:
        call(*args)
    except py9p.RemoteError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"{call.__name__}{args} is no error")


def entries(client, fid):
    """All stat records of an open directory."""
    offset, found = 0, []
    while data := client.read(fid, 1000, offset):
        offset += len(data)
        while data:
            size = 2 + int.from_bytes(data[:2], "little")
            found.append(decode_dir(data[:size]))
            data = data[size:]
    return found


def main(client):
    client.negotiate()
    assert client.version_string == "9P2000"
    client.attach(ROOT, afid=NOFID, uname="glenda", aname="")

    client.walk(ROOT, 1, "")
    client.create(1, "folder", DMDIR | 0o755, OREAD)
    client.clunk(1)
    for number in range(40):
        client.walk(ROOT, 1, "folder")
        client.create(1, f"file{number}", 0o644, ORDWR)
        assert client.write(1, b"hello from plan 9\n") == 18
        assert client.read(1, 100, 6) == b"from plan 9\n"
        client.clunk(1)

    client.walk(ROOT, 1, "folder")
    record = client.stat(1)
    assert record.name == "folder" and record.mode == DMDIR | 0o755 and record.length == 0, record
    client.open(1, OREAD)
    names = sorted(entry.name for entry in entries(client, 1))
    assert names == sorted(f"file{number}" for number in range(40)), names
    assert all(entry.length == 18 and entry.mode == 0o644 for entry in entries(client, 1))
    client.clunk(1)

    client.walk(ROOT, 1, "folder/file0")
    client.wstat(1, changed(name="renamed", mode=0o600, length=5, mtime=1_000_000_000))
    record = client.stat(1)
    assert (record.name, record.mode, record.length, record.mtime) == ("renamed", 0o600, 5, 1_000_000_000), record
    expect_error("File exists", client.wstat, 1, changed(name="file1"))
    client.wstat(1, changed())
    client.open(1, OREAD)
    assert client.read(1, 100, 0) == b"hello"
    expect_error("Bad file descriptor", client.write, 1, b"x")
    client.clunk(1)

    client.walk(ROOT, 1, "folder/file1")
    client.open(1, OWRITE | OTRUNC | ORCLOSE)
    assert client.stat(1).length == 0
    client.clunk(1)
    client.walk(ROOT, 1, "folder/file2")
    client.remove(1)
    expect_error("Bad file descriptor", client.stat, 1)
    expect_error("No such file", client.walk, ROOT, 1, "none")

    client.walk(ROOT, 1, "folder")
    expect_error("Is a directory", client.open, 1, OWRITE)
    expect_error("not empty", client.remove, 1)


if __name__ == "__main__":
    kind, *address = sys.argv[1:]
    if kind == "unix":
        connection = py9p.Client.connect_unix(address[0])
    else:
        connection = py9p.Client.connect_tcp(address[0], int(address[1]), timeout=60)
    with connection:
        main(connection)
