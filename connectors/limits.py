"""Every wait, pool and cap of the function that no setting changes, each with its reason.

docs/reference/limits.md lists them together with the limits of the core and those that settings change.
"""

from __future__ import annotations

# The function's time

#: An attempt stops this long before the function's time is up: enough to store a part and to send a
#: message to the queue.
STOP_BEFORE_END_SECONDS = 20.0

#: A short function stops at this share of its time, if that is less than STOP_BEFORE_END_SECONDS.
STOP_BEFORE_END_SHARE = 0.2

#: A lease lasts this much longer than the function's time, in case its clock is read late.
LEASE_SLACK_SECONDS = 15.0

# Rounds

#: A round is given up after this many attempts in a row that made no progress.
MAX_ATTEMPTS_WITHOUT_PROGRESS = 5

#: A checkpoint is written this often at most: ten seconds of work cost less than constant writes.
CHECKPOINT_SECONDS = 10.0

#: `TimeoutSeconds` of the state machine of a distributed round; the round's lease lasts as long.
EXECUTION_SECONDS = 3600

# PostgreSQL. A statement of the function takes milliseconds, and one of an admin page seconds.

#: A connection is opened within this time. A host in the same network answers within one second.
DATABASE_CONNECT_SECONDS = 10

#: Aurora that has scaled to zero takes up to half a minute to resume.
DATABASE_RESUME_SECONDS = 60

#: A connection whose data is not acknowledged in this time is closed, as when its host died silently.
DATABASE_UNACKNOWLEDGED_SECONDS = 20

#: An idle connection, as while a statement is awaited, is probed after 10 seconds, every 5 seconds, and
#: closed after 2 probes without an answer.
DATABASE_KEEPALIVES_IDLE_SECONDS = 10
DATABASE_KEEPALIVES_INTERVAL_SECONDS = 5
DATABASE_KEEPALIVES_COUNT = 2

#: A statement is cancelled after this time. RDS Proxy rejects startup `options`, so that the database's
#: role has it: the SQL in template.yaml sets it by ALTER ROLE.
DATABASE_STATEMENT_SECONDS = 60

#: SQLite waits this long for another writer.
SQLITE_BUSY_SECONDS = 30

# Amazon S3, SQS and EventBridge. botocore's own defaults are 60 seconds to connect and 60 to read, which
# is most of a short function's time.

#: A connection within AWS takes milliseconds.
AWS_CONNECT_SECONDS = 5

#: The longest pause between two packets of an answer; S3's first byte takes up to a few seconds.
S3_READ_SECONDS = 20
SQS_READ_SECONDS = 10

#: botocore sends a request this often in all; `connectors.storage.retries` repeats the whole.
AWS_ATTEMPTS = 3

#: Publishing events must not delay a round: what is not sent now is sent by the next invocation.
EVENTS_CONNECT_SECONDS = 2
EVENTS_READ_SECONDS = 5
EVENTS_ATTEMPTS = 2

#: Connections that are kept open in addition to those of the reading threads: for parts and small objects.
SPARE_CONNECTIONS = 4

# The queue

#: A failed message returns after 1, 4, 16 and 30 minutes, instead of after its whole visibility timeout.
#: With five deliveries, an outage of fifty minutes makes no dead letter.
RETRY_FIRST_SECONDS = 60
RETRY_FACTOR = 4
RETRY_MAX_SECONDS = 1800
