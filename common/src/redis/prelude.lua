-- What all three function libraries share. It is put in front of each service's own file when the library is loaded.
--
-- Replies are arrays of strings, the first is the return code. Numbers travel as strings of decimal digits, because Redis cuts
-- Lua numbers to 64-bit integers and Lua prints large ones with an exponent.

-- The largest amount, 2^53 - 1. Sums of two amounts are exact enough in a double to be compared with it.
local MAX = 9007199254740991

-- A whole number as decimal digits.
local function digits(number)
  return string.format('%.0f', number)
end

-- Adds to a counter of the totals. A counter is a 64-bit integer; long before its end, 2^62 of it are carried over to a counter of
-- such carries, so that no number of requests can bring it to where it refuses.
local CARRY = 4611686018427387904
local function raise(totals, field, by)
  if redis.call('HINCRBY', totals, field, by) >= CARRY then
    redis.call('HINCRBY', totals, field, '-' .. digits(CARRY))
    redis.call('HINCRBY', totals, field .. '_carried', 1)
  end
end

-- The database's clock, in milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Runs a command of the REST interface once per operation key.
--   KEYS[1]  the operation's record
--   ARGV[1]  fingerprint of the request   ARGV[2]  lifetime of the record in seconds
-- Returns what `command` returns, recorded; the recorded reply for a repeat; `key_mismatch` where the key belongs to another request.
local function once(keys, args, command)
  local recorded = redis.call('GET', keys[1])
  if recorded then
    local record = cjson.decode(recorded)
    if record[1] ~= args[1] then
      return { 'key_mismatch' }
    end
    table.remove(record, 1)
    return record
  end
  local reply = command()
  redis.call('SET', keys[1], cjson.encode({ args[1], unpack(reply) }), 'EX', args[2])
  return reply
end

-- Runs one chunk of a `batch_init` for the owner of its operation key.
--   KEYS[1]  the operation's record
--   ARGV[1]  fingerprint   ARGV[2]  lifetime of the record in seconds   ARGV[3]  owner: a token of the request that runs it
--   ARGV[4]  '1' for the last chunk   ARGV[5]  lease in seconds: a request that dies leaves its key free after it
-- Returns `ok`; `done` where the whole batch was recorded as done before; `running` where another request owns it; `key_mismatch`.
local function chunk(keys, args, write)
  local recorded = redis.call('GET', keys[1])
  if recorded then
    local record = cjson.decode(recorded)
    if record[1] ~= args[1] then
      return { 'key_mismatch' }
    elseif record[2] == 'done' then
      return { 'done' }
    elseif record[2] ~= args[3] then
      return { 'running' }
    end
  end
  write()
  if args[4] == '1' then
    redis.call('SET', keys[1], cjson.encode({ args[1], 'done' }), 'EX', args[2])
  else
    redis.call('SET', keys[1], cjson.encode({ args[1], args[3] }), 'EX', args[5])
  end
  return { 'ok' }
end

-- The time before which no effect may begin any more, because its outcome record may have been forgotten.
local function is_forgotten(watermark, started_ms)
  local closed_before = redis.call('GET', watermark)
  if closed_before and tonumber(started_ms) < tonumber(closed_before) then
    return closed_before
  end
  return nil
end

-- Records an outcome in its bucket and the bucket in the index, so that it can be forgotten with it. `indexed` says that the bucket is
-- in the index already, as it is for all but the first of a bucket's records.
local function record(bucket, buckets, saga, outcome, indexed)
  redis.call('HSET', bucket, saga, outcome)
  if not indexed then
    redis.call('SADD', buckets, bucket)
  end
end

-- The number of a bucket: which span of time its sagas started in.
local function number_of(bucket)
  return tonumber(string.match(bucket, '(%d+)$'))
end

-- What is recorded about a saga, and the bucket that it is kept in. The bucket of the saga's start is looked at first, but a saga that
-- a failover forgot is opened again under the same id with a later start, and must meet its record all the same. There are few
-- buckets: those of the sagas that started since the watermark. Returns outcome or nil, its bucket, and whether that is in the index.
local function find(bucket, buckets, saga)
  local outcome = redis.call('HGET', bucket, saga)
  if outcome then
    return outcome, bucket, true
  end
  local indexed = false
  for _, other in ipairs(redis.call('SMEMBERS', buckets)) do
    if other == bucket then
      indexed = true
    else
      outcome = redis.call('HGET', other, saga)
      if outcome then
        return outcome, other, true
      end
    end
  end
  return nil, bucket, indexed
end

-- Moves a record to the bucket of a later start, so that it is kept as long as a saga that was opened again can ask for it.
-- Returns the bucket that the record is kept in now.
local function keep(from, bucket, buckets, saga, outcome)
  if number_of(from) >= number_of(bucket) then
    return from
  end
  redis.call('HDEL', from, saga)
  record(bucket, buckets, saga, outcome)
  return bucket
end

-- Raises the watermark and forgets whole buckets of outcome records that lie behind it.
--   KEYS  1 watermark  2 buckets, the index of all
--   ARGV  1 every saga started before this time is closed (ms)  2 width of a bucket (ms)  3 most buckets to remove
--         4 how far its clock may be ahead of ours (ms)
-- Returns { 'ok', records forgotten, buckets still to remove } | { 'in_future', our clock (ms) }
local function trim(keys, args)
  local closed_before = tonumber(args[1])
  -- Believed, it would have every saga refused as too old until our clock has come so far.
  if closed_before > now_ms() + tonumber(args[4]) then
    return { 'in_future', digits(now_ms()) }
  end
  local known = tonumber(redis.call('GET', keys[1]) or '0')
  if closed_before > known then
    redis.call('SET', keys[1], args[1])
  else
    closed_before = known
  end
  local removed, forgotten, left = 0, 0, 0
  for _, bucket in ipairs(redis.call('SMEMBERS', keys[2])) do
    if (number_of(bucket) + 1) * tonumber(args[2]) <= closed_before then
      if removed < tonumber(args[3]) then
        forgotten = forgotten + redis.call('HLEN', bucket)
        redis.call('UNLINK', bucket)
        redis.call('SREM', keys[2], bucket)
        removed = removed + 1
      else
        left = left + 1
      end
    end
  end
  return { 'ok', digits(forgotten), digits(left) }
end

