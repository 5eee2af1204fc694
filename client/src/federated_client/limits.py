"""Every wait and limit of the client, each with its reason."""

#: Attempts of one request: with the pauses below about fifteen seconds, enough for a change of network or
#: for S3's own recovery ("503 Slow Down"), and short enough for a person who waits.
ATTEMPTS = 6

#: The pause before attempt n + 1 is random between zero and this times 2**(n - 1), so that the clients of
#: a federation do not return at the same moment.
FIRST_PAUSE_SECONDS = 0.5

#: The longest of these pauses.
MAX_PAUSE_SECONDS = 8.0

#: Attempts of an upload in parts, in a row in which no part arrived: about half a minute.
UPLOAD_ATTEMPTS = 10

#: Attempts of boto3 itself within one of ours. It repeats a single part of a large upload, which is cheaper
#: than the whole upload again.
BOTO_ATTEMPTS = 3

#: For a connection to be established. A host that does not answer within this time is down.
CONNECT_SECONDS = 10

#: Without a byte received or accepted. S3 may take most of a minute to complete a large upload.
READ_SECONDS = 60

#: The longest pause that a server may ask for. A sleeping database wakes within half a minute.
MAX_RETRY_AFTER = 30.0

#: Bytes copied at once between a socket and a file.
COPY_BYTES = 1 << 20

#: Bytes of an upload sent between two calls of a progress function.
SEND_BYTES = 256 << 10

#: Bytes read of an error's body. S3's error documents have less than a kilobyte.
ERROR_BYTES = 4096

#: Longest wait for a round and the pause between two looks, unless the caller says otherwise.
WAIT_SECONDS = 600.0
POLL_SECONDS = 5.0

#: The last look at storage may take this long beyond the end of a wait; a longer one is abandoned.
LAST_LOOK_SECONDS = 2.0

#: Bytes read of an object at first, to learn its layout. The headers of most models fit.
HEAD_BYTES = 64 << 10

#: Elements checked for NaN at once: the check needs a megabyte of memory, whatever the model's size.
CHECK_ELEMENTS = 1 << 18

#: The share of a tensor's elements that an update compressed by topk contains, rounded up.
TOPK_SHARE = 0.01

#: Largest score that the aggregator reads; a score is one JSON object.
MAX_SCORE_BYTES = 64 << 10

#: Largest finite value of a score that the aggregator accepts. Sums of such scores do not overflow.
MAX_SCORE_VALUE = 1e300

#: Deepest nesting of a score that the aggregator accepts.
MAX_SCORE_DEPTH = 20

#: Largest number of examples that the aggregator accepts, by default.
MAX_NUM_EXAMPLES = 10**9

#: Bytes of a part of an upload through the API: what is lost when a connection breaks.
PART_BYTES = 8 << 20

#: Parts of an upload that S3 allows.
MAX_PARTS = 10_000
