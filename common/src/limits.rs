//! Every limit that is a constant, with its reason. The unit is in the name. Limits that a deployment may want to change
//! are settings and stand in each service's `config.rs`.

/// Longest id. UUIDs have 36 characters; an id is part of Redis keys and of event headers, so it stays short.
pub const MAX_ID_BYTES: usize = 64;

/// Connections that one HTTP server has at once, each with one request in hand at most. Far above the few thousand clients that may come
/// at once; a connection costs some 20 kB.
pub const MAX_CONNECTIONS: usize = 20_000;

/// Largest head of a request: its line and its headers. Ours have some 300 bytes; a client's cookies and traces may come along.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// Longest `Idempotency-Key`, as the IETF draft's examples and common providers allow.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// Most entries in one order. An event carries them all (about 50 bytes each, NATS' default limit is 1 MiB) and one Redis
/// function takes them all while it blocks its server.
pub const MAX_ENTRIES_PER_ORDER: u64 = 1_000;

/// Most entries that one `batch_init` creates: a million answer within about 20 seconds and take some 200 MB of Redis.
pub const MAX_BATCH_INIT_ENTRIES: u64 = 1_000_000;

/// Entries that one Redis function call of a `batch_init` writes. It blocks its server for about 2 ms.
pub const BATCH_INIT_CHUNK_ENTRIES: u64 = 1_000;

/// Writes that one pipeline of the group-commit writer carries at most. Larger groups no longer make a write cheaper, but
/// all of its callers wait for the last one.
pub const MAX_GROUP_COMMANDS: usize = 512;

/// Writes that may wait for the writer of one database. Beyond that callers wait for a place, which bounds memory.
pub const MAX_QUEUED_COMMANDS: usize = 16_384;

/// Messages that a consumer runs as one batch.
pub const MAX_CONSUMER_BATCH: usize = 256;

/// Batches that one consumer has in flight: enough to overlap the database's sync with the broker's acknowledgements.
pub const MAX_BATCHES_IN_FLIGHT: usize = 4;

/// Width of a bucket of outcome records. Records are forgotten a whole bucket at a time, and a new saga is looked for in all
/// buckets since the watermark, of which there should be few.
pub const OUTCOME_BUCKET_MS: u64 = 20_000;

/// Buckets that one trim removes. Each is unlinked in constant time and freed by Redis in the background.
pub const MAX_BUCKETS_PER_TRIM: u64 = 100;

/// How far the order database's clock may be ahead of another's when that is told a watermark. Watermarks are a margin (a minute, by
/// default) behind the clock that they come from, so clocks may in truth differ by that much more.
pub const MAX_CLOCK_AHEAD_MS: u64 = 5_000;

/// Sagas that one claim of the reconciler takes. A tick that finds more goes on at once.
pub const MAX_SAGAS_PER_CLAIM: u64 = 200;

/// Records of replaced orders that are forgotten when the watermark is raised: some milliseconds of the database's time every few seconds.
pub const MAX_REPLACED_FORGOTTEN: u64 = 2_000;

/// How often a consumer's message is delivered before anybody should look at it. It is delivered on: only a log line and a
/// metric follow.
pub const SUSPICIOUS_DELIVERIES: i64 = 10;
