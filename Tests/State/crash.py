"""Ends: kill -9 in a write storm, and the drain that loses nothing."""
import asyncio
import contextlib
import random
import re
import sqlite3
import statistics
import time

from bench import LOST_AT_MOST, MAX_LOG_BYTES, case, wait_for
from life import Cut, infer_request, read_reply

REQUEST_ID = re.compile(r'"request_id":"([0-9a-f-]{36})"')
CLIENTS = 8
LOG_GROWS = "The history's WAL file grows: another process has been reading the database for long"


async def client(subject, answered, stream):
    """Asks as fast as it is answered, until the gateway is gone; keeps when each answer was whole."""
    with contextlib.suppress(Cut, OSError):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", subject.port)
            head = ""
            while "connection: close" not in head:
                writer.write(infer_request("storm", stream))
                status, head, body = await read_reply(reader)
                if status != 200:
                    return  # it drains
                answered[REQUEST_ID.search(body)[1]] = time.monotonic()
            writer.close()


async def storm(subject, seconds, end):
    """Requests for so long, then the end. Returns when each was answered, and when the end came."""
    answered = {}
    clients = [asyncio.create_task(client(subject, answered, number % 2 == 1)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds)
    # Not as the machine goes on after it stood still: the store, too, has to write then what is late.
    moment = 1
    while moment > 0.2:
        before = time.monotonic()
        await asyncio.sleep(0.05)
        moment = time.monotonic() - before
    ended = time.monotonic()
    await asyncio.to_thread(end)
    await asyncio.gather(*clients)
    return answered, ended


def check_totals(subject):
    """What the WebLLM API says is what the rows add up to."""
    # A kill soon after the first start leaves no row, and the sum of none is NULL.
    rows, tokens, tenths = subject.table(
        "SELECT count(*), coalesce(sum(tokens_out), 0), coalesce(sum(inference), 0) FROM request")[0]
    totals = subject.totals
    assert totals["total_inferences"] == rows == totals["client_side_count"], f"{rows} rows, {totals}"
    assert totals["total_tokens"] == tokens, f"{tokens} tokens, {totals}"
    # A row has its time in whole tenths of a millisecond, the rest cut off.
    rest = totals["total_time_ms"] - tenths / 10
    assert -1 <= rest <= rows / 10 + 1, f"{tenths / 10} ms in the rows, {totals}"


@case("S07 kill -9 in a write storm")
def kill_in_a_write_storm(bench):
    randoms = random.Random(bench.seed)
    subject = bench.subject()
    starts = [subject.start()]
    before, promised, oldest_lost = set(), 0, 0.0
    for number in range(bench.kills):
        try:
            answered, killed = asyncio.run(storm(subject, randoms.uniform(0.2, 1.4), subject.kill))
            starts.append(subject.start())
            ids = subject.check_file()
            check_totals(subject)
            assert before <= ids, f"{len(before - ids)} rows are gone that were there before"
            ages = {one: killed - moment for one, moment in answered.items()}
            promised += sum(age > LOST_AT_MOST for age in ages.values())
            oldest_lost = max([oldest_lost, *(age for one, age in ages.items() if one not in ids)])
            assert oldest_lost <= LOST_AT_MOST, f"answered {oldest_lost:.2f} s before the kill, and lost"
        except AssertionError as error:
            raise AssertionError(f"--seed {bench.seed}, kill {number + 1}: {error}") from error
        before = ids
    assert promised > 0, "nothing was answered early enough to tell"
    start = statistics.median(starts)
    assert start < 1, f"a start takes {start:.2f} s"
    return (f"seed {bench.seed}: {bench.kills} kills, {len(before)} rows, the oldest lost was answered "
            f"{oldest_lost * 1000:.0f} ms before; a start takes {start * 1000:.0f} ms")


@case("S05 S16 SIGTERM writes all and leaves no WAL")
def drain(bench):
    subject = bench.subject()
    subject.start()
    answered, _ = asyncio.run(storm(subject, 1, subject.stop))
    assert subject.sidecars.get("-wal", 0) == 0, f"beside the file: {subject.sidecars}"
    missing = set(answered) - subject.ids()
    assert not missing, f"{len(missing)} of {len(answered)} answered requests are not in the file"
    subject.start()
    subject.check_file()
    check_totals(subject)
    return f"{len(answered)} answered"


@case("S05 a reader that stays")
def reader_that_stays(bench):
    """It holds back checkpoints, which is told; but neither writes nor the end, and nothing is lost."""
    subject = bench.subject()
    subject.start()
    subject.infer()
    subject.wait_written()
    with subject.database() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM request").fetchone()
        subject.infer()
        subject.wait_written()
        with contextlib.closing(sqlite3.connect(subject.path)) as other:  # what days of requests would do
            other.execute("CREATE TABLE filler AS SELECT zeroblob(?)", (MAX_LOG_BYTES,))
            other.execute("DROP TABLE filler")
        subject.infer()
        wait_for(lambda: subject.alerts == [LOG_GROWS], 10, "an alert")
        warning = subject.wait_said("history's WAL file grows: another process reads the database for long")[0]
        assert warning["level"] == "warning" and int(warning["bytes"]) > MAX_LOG_BYTES, warning
        subject.stop()
    subject.start()
    assert subject.check_file() == subject.answered
    subject.infer()
    subject.wait_written()
    subject.stop()
    assert subject.sidecars.get("-wal", 0) == 0, f"beside the file: {subject.sidecars}"
